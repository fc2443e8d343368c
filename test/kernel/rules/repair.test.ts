import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { until } from "../../support/lab.ts";
import type { Daemon } from "../../support/lab.ts";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { CLIENT, DB, HOST, leaseRow, WEB } from "../../support/world.ts";

/** Other programs change the rules, also while the daemon is stopped; connections prove that kvmnatd repairs them. */
describe.each(["nft", "legacy"] as const)("kvmnatd with iptables-%s", (variant) => {
  let world: DaemonWorld;
  let daemon: Daemon;
  let before: string;
  /** A second address of guest db. */
  const ELSEWHERE = "192.168.122.99";
  const WEB_ANSWERS = `web 22 ${CLIENT}`;
  const iptables = (...args: readonly string[]): Promise<unknown> =>
    world.lab.exec([`iptables-${variant}`, ...args]);
  const restore = (input: string): Promise<unknown> =>
    world.lab.exec([`iptables-${variant}-restore`, "--noflush"], { input });

  beforeAll(async () => {
    world = await createDaemonWorld(variant);
    await restore(FOREIGN);
    await world.addAddress("db", ELSEWHERE);
    before = await world.foreignRules();
    daemon = await world.start();
  });
  beforeEach(async ({ onTestFailed }) => {
    await world.leases();
    await world.reload();
    await world.isWell();
    expect(await world.web()).toBe(WEB_ANSWERS);
    onTestFailed(async () =>
      console.error([...world.log().map(({ msg }) => msg), await world.rules("filter")].join("\n")),
    );
  });
  afterAll(() => world.close());

  /** Stops the daemon during `act`, so that no repair happens before `act` ends, and then requests a pass. */
  async function unseen(act: () => Promise<void>): Promise<void> {
    await daemon.kill("SIGSTOP");
    await act();
    await daemon.kill("SIGCONT");
    await daemon.kill("SIGHUP");
  }

  const answersAgain = (): Promise<unknown> =>
    until("the client reaches web again", async () => (await world.web()) === WEB_ANSWERS);

  it("enables IPv4 forwarding again when it was disabled", async () => {
    await world.lab.exec(["sysctl", "-q", "net.ipv4.ip_forward=0"]);
    await until("forwarding is on again", async () => (await world.web()) === WEB_ANSWERS);
  });

  it("keeps one jump, without a backoff, when another program adds a copy again and again", async () => {
    for (let count = 0; count < 5; count += 1) {
      await iptables("-I", "FORWARD", "-m", "comment", "--comment", "kvmnatd:@jump", "-j", "KVMNATD-FWD");
      await until("our jump stands once", async () => {
        const rules = await world.rules("filter");
        return rules.match(/-A FORWARD .*-j KVMNATD-FWD/g)?.length === 1;
      });
    }
    await world.reload();
    await world.isWell();
    expect(world.log().filter(({ event }) => event === "jump-overridden")).toEqual([]);
  });

  it("moves its jump before LIBVIRT_FWI when it is behind it", async () => {
    const jump = ["FORWARD", "-m", "comment", "--comment", "kvmnatd:@jump", "-j", "KVMNATD-FWD"];
    await unseen(async () => {
      await iptables("-D", ...jump);
      await iptables("-A", ...jump);
      expect(await world.web()).toBe("denied");
    });
    await answersAgain();
    expect((await world.rules("filter")).match(/-j KVMNATD-FWD$/gm)).toHaveLength(1);
    expect(await world.foreignRules()).toBe(before);
  });

  it("replaces a DNAT rule whose target another program changed", async () => {
    await unseen(async () => {
      const rule = /^-A (KVMNATD-DNAT .*192\.168\.122\.11:22)$/m.exec(await world.rules("nat"))?.[1] ?? "";
      await restore(`*nat\n-D ${rule}\n-A ${rule.replace("122.11:22", "122.12:22")}\nCOMMIT\n`);
      expect(await world.web()).toBe(`db 22 ${CLIENT}`);
    });
    await answersAgain();
  });

  it("removes a foreign rule from its chain and adds a missing one", async () => {
    await unseen(async () => {
      await iptables("-I", "KVMNATD-FWD", "-j", "DROP");
      await iptables("-t", "nat", "-F", "KVMNATD-SNAT");
      expect(await world.web()).toBe("denied");
    });
    await answersAgain();
    expect(await world.ask("web", "tcp", HOST, 1122)).toMatch(/^web 22 /);
    expect(await world.rules("filter")).not.toContain("-A KVMNATD-FWD -j DROP");
  });

  it("removes the second copy of its jump", async () => {
    await unseen(async () => {
      const jump = ["-m", "addrtype", "--dst-type", "LOCAL", "-m", "comment", "--comment", "kvmnatd:@jump"];
      await iptables("-t", "nat", "-A", "PREROUTING", ...jump, "-j", "KVMNATD-DNAT");
    });
    await until("one jump", async () => {
      const nat = await world.rules("nat");
      return nat.match(/^-A PREROUTING .*-j KVMNATD-DNAT$/gm)?.length === 1;
    });
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("keeps open connections of other guests when a lease moves, at a restart and after kill -9", async () => {
    const open = world.hold("client", HOST, 1122);
    await open.waitForLine(/^web 22 /);
    const echo = async (word: string): Promise<void> => {
      open.stdin.write(`${word}\n`);
      await open.waitForLine(new RegExp(`^${word}$`));
    };
    await world.leases(leaseRow(WEB), leaseRow({ mac: DB.mac, address: ELSEWHERE }));
    await until("db's rule has moved", async () =>
      (await world.rules("nat")).includes(`--to-destination ${ELSEWHERE}:22`),
    );
    expect(await world.ask("client", "tcp", HOST, 1222)).toBe(`db 22 ${CLIENT}`);
    await echo("after-pass");
    expect(await daemon.stop()).toBe(0);
    await world.leases();
    daemon = await world.start();
    await world.isWell();
    expect(await world.rules("nat")).not.toContain(ELSEWHERE);
    expect(await world.ask("client", "tcp", HOST, 1222)).toBe(`db 22 ${CLIENT}`);
    await echo("after-restart");
    await daemon.kill("SIGKILL");
    await daemon.exited;
    daemon = await world.start();
    await world.isWell();
    await echo("after-kill");
    await open.kill("SIGKILL");
  });

  it("completes an interrupted change at the next start when it was killed at any moment", async () => {
    const addresses = [DB.address, WEB.address];
    for (const [round, delayMs] of [0, 5, 10, 20, 30, 45, 60, 90].entries()) {
      const address = addresses[round % 2] ?? "";
      const other = addresses[(round + 1) % 2] ?? "";
      await world.leases(leaseRow({ mac: WEB.mac, address }), leaseRow({ mac: DB.mac, address: other }));
      // A delay and not a state: the kill must hit different moments of the change.
      await new Promise((done) => setTimeout(done, delayMs));
      await daemon.kill("SIGKILL");
      await daemon.exited;
      daemon = await world.start();
      await world.isWell();
      expect(await world.web()).toBe(`${address === WEB.address ? "web" : "db"} 22 ${CLIENT}`);
    }
    expect(await world.foreignRules()).toBe(before);
  });

  it("follows leases while another program adds rules all the time, and none of these is lost", async () => {
    const neighbour = world.lab.spawn(["sh", "-c", NEIGHBOUR.replaceAll("VARIANT", variant)]);
    const addresses = [DB.address, WEB.address];
    for (let round = 0; round < 10; round += 1) {
      const address = addresses[round % 2] ?? "";
      await world.leases(
        leaseRow({ mac: WEB.mac, address }),
        // No guest has this address.
        leaseRow({ mac: DB.mac, address: "192.168.122.77" }),
      );
      const guest = address === WEB.address ? "web" : "db";
      await until(`the client reaches ${guest}`, async () => (await world.web()) === `${guest} 22 ${CLIENT}`);
    }
    expect(await neighbour.exited).toBe(0);
    for (const table of ["nat", "filter"] as const) {
      const rules = await world.rules(table);
      for (let index = 1; index <= 60; index += 1) expect(rules).toContain(`-s 10.99.${index}.0/24 `);
    }
    for (const table of ["nat", "filter"])
      await restore(
        `*${table}\n${Array.from({ length: 60 }, (_, index) => `-D ${table === "nat" ? "PREROUTING" : "FORWARD"} -s 10.99.${index + 1}.0/24 -j ACCEPT`).join("\n")}\nCOMMIT\n`,
      );
    await world.reload();
    await world.isWell();
    expect(await world.foreignRules()).toBe(before);
  });

  it("leaves foreign rules unchanged to the byte, also at teardown", async () => {
    expect(await world.foreignRules()).toBe(before);
    expect(await daemon.stop()).toBe(0);
    const options = ["-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
    expect(await world.lab.kvmnatd(["teardown", ...options])).toMatchObject({ exitCode: 0, stderr: "" });
    expect(await world.foreignRules()).toBe(before);
    expect(await world.rules("nat")).not.toContain("KVMNATD-");
    expect(await world.rules("filter")).not.toContain("KVMNATD-");
    daemon = await world.start();
  });
});

/** Rules of an admin that resemble kvmnatd's, or are hard to restore. */
const FOREIGN = `*raw
-A PREROUTING -i lan0 -p udp -m udp --dport 9 -j NOTRACK
COMMIT
*filter
:ADMIN - [0:0]
:KVMNATDX - [0:0]
-A INPUT -s 203.0.113.9/32 -m comment --comment "see kvmnatd: \\"quoted\\" \\\\ back" -j DROP
-A ADMIN -p tcp -m multiport --dports 25,465 -j REJECT --reject-with tcp-reset
-A FORWARD -o lan0 -j ADMIN
-A FORWARD -m comment --comment "my KVMNATD" -j KVMNATDX
-A KVMNATDX -m limit --limit 5/min -j LOG --log-prefix "kvm nat: "
COMMIT
*nat
-A PREROUTING -i lan0 -p tcp -m tcp --dport 4444 -j REDIRECT --to-ports 4445
-A POSTROUTING -s 10.11.0.0/16 ! -d 10.0.0.0/8 -j MASQUERADE --random-fully
COMMIT
`;

const NEIGHBOUR = `set -e
for i in $(seq 60); do
  iptables-VARIANT -w 5 -A FORWARD -s 10.99.$i.0/24 -j ACCEPT
  iptables-VARIANT -w 5 -t nat -A PREROUTING -s 10.99.$i.0/24 -j ACCEPT
done`;
