import { writeFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { PROGRAM, until } from "../../support/lab.ts";
import type { Daemon } from "../../support/lab.ts";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { CLIENT, DB, HOST, leaseRow, WEB } from "../../support/world.ts";

let world: DaemonWorld;
let daemon: Daemon;
const WEB_ANSWERS = `web 22 ${CLIENT}`;

beforeEach(async ({ onTestFailed }) => {
  // Long enough for the tests to observe it.
  world = await createDaemonWorld("nft", "linger: 4s\n");
  daemon = await world.start();
  await world.becomes("web", "active");
  onTestFailed(() => world.printLog());
});
afterEach(() => world.close());

/** @returns a function that returns the messages that the daemon has logged since this call */
function newLines(): () => readonly string[] {
  const from = world.log().length;
  return () =>
    world
      .log()
      .slice(from)
      .map(({ msg }) => msg);
}

describe("a lease that moves", () => {
  it("moves its forward, and the log has one line for the reason and one per rule", async () => {
    expect(await world.web()).toBe(WEB_ANSWERS);
    await world.settles();
    const said = newLines();
    // web's lease is now at db's address, as if db had gone and web had got its address.
    await world.writeLeases("virbr0", [leaseRow({ mac: WEB.mac, address: DB.address })]);
    await until("the client reaches the new address", async () => (await world.web()) === `db 22 ${CLIENT}`);
    // The new rule may deliver packets before the daemon logs it.
    await daemon.waitForLine(/"\+ iptables .*--dport 1122 .*192\.168\.122\.12:22"/);
    const lines = said();
    const why = lines.findIndex((line) => line.startsWith(`web: ${WEB.address} -> ${DB.address}`));
    expect(lines.slice(why, why + 3)).toEqual([
      expect.stringContaining("virbr0.status"),
      expect.stringMatching(/^- iptables -t nat -D KVMNATD-DNAT .*192\.168\.122\.11:22$/),
      expect.stringMatching(/^\+ iptables -t nat -[AI] KVMNATD-DNAT .*192\.168\.122\.12:22$/),
    ]);
  });

  it("logs nothing when the lease is only renewed", async () => {
    const said = newLines();
    const rules = await world.rules("nat");
    await world.leases(leaseRow(WEB, { "expiry-time": Math.floor(Date.now() / 1000) + 7200 }));
    await until("the new expiry is in the status", async () => {
      const { forwards } = JSON.parse(JSON.stringify(await world.status())) as {
        forwards: { leaseExpires: string }[];
      };
      return new Date(forwards[0]?.leaseExpires ?? 0).getTime() > Date.now() + 7_000_000;
    });
    await world.settles();
    expect(said()).toEqual([]);
    expect(withoutCounters(await world.rules("nat"))).toBe(withoutCounters(rules));
  });

  it("follows the last of 500 changes in a second with less than 5 s of CPU time", async () => {
    const before = await cpuSeconds();
    for (let index = 0; index < 500; index += 1) {
      const address = index % 2 === 0 ? "192.168.122.50" : "192.168.122.51";
      await world.leases(leaseRow({ mac: WEB.mac, address }));
    }
    await world.leases();
    await world.settles();
    expect(await world.rules("nat")).toContain(`to-destination ${WEB.address}:22`);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect((await cpuSeconds()) - before).toBeLessThan(5);
  });
});

describe("a lease that ends", () => {
  it("lingers, then its forward is pending until the lease is back", async () => {
    await world.writeLeases("virbr0", [leaseRow(DB)]);
    await world.becomes("web", "active", /lingers/);
    await world.becomes("web", "pending", /no live lease of 52:54:00:6c:3c:01/);
    expect(await world.web()).toBe("denied");
    await world.leases();
    await world.becomes("web", "active");
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("expires by the clock although its row stays in the file", async () => {
    await world.leases(leaseRow(WEB, { "expiry-time": Math.floor(Date.now() / 1000) + 2 }));
    await world.becomes("web", "pending", /expired/);
    expect(await world.web()).toBe("denied");
  });

  it("is ignored when libvirt no longer lists its domain", async () => {
    await world.writeMacs("virbr0", { db: [DB.mac] });
    await world.becomes("web", "pending", /guest is off/);
    expect(await world.web()).toBe("denied");
    await world.becomes("db", "active");
  });
});

describe("the network", () => {
  it("that is down makes its forwards pending until it is up again", async () => {
    await world.lab.exec(["ip", "link", "set", "virbr0", "down"]);
    await world.becomes("web", "pending", /network virbr0 is down/);
    await world.lab.exec(["ip", "link", "set", "virbr0", "up"]);
    await world.becomes("web", "active");
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("a listen address that is added later activates its forwards", async () => {
    await world.configure(`listen: 198.51.100.77\n${GUESTS}`);
    await world.becomes("web", "pending", /198\.51\.100\.77: not on this host/);
    await world.lab.exec(["ip", "address", "add", "198.51.100.77/24", "dev", "lan0"]);
    await world.becomes("web", "active");
    expect(await world.ask("client", "tcp", "198.51.100.77", 1122)).toBe(WEB_ANSWERS);
  });
});

describe("across restarts", () => {
  it("an open connection survives a pass, a restart, and kill -9", async () => {
    const open = world.hold("client", HOST, 1122);
    await open.waitForLine(/^web 22 /);
    const echo = async (word: string): Promise<void> => {
      open.stdin.write(`${word}\n`);
      await open.waitForLine(new RegExp(`^${word}$`));
    };
    await echo("before");
    await world.writeLeases("virbr0", [leaseRow(WEB), leaseRow({ mac: DB.mac, address: "192.168.122.99" })]);
    await until("db has moved", async () => (await world.rules("nat")).includes("192.168.122.99"));
    await echo("after-pass");
    expect(await daemon.stop()).toBe(0);
    expect(await world.web()).toBe(WEB_ANSWERS);
    daemon = await world.start();
    await world.becomes("web", "active");
    await echo("after-restart");
    await daemon.kill("SIGKILL");
    await daemon.exited;
    await world.start();
    await world.becomes("web", "active");
    await echo("after-kill");
  });

  it("a restart without changes writes no rule", async () => {
    await daemon.stop();
    const rules = await world.rules("nat");
    const said = newLines();
    await world.start();
    await world.becomes("web", "active");
    expect(said().filter((line) => /^[+-] /.test(line))).toEqual([]);
    expect(withoutCounters(await world.rules("nat"))).toBe(withoutCounters(rules));
  });

  it("the daemon applies changes from before its start and repairs rules", async () => {
    await daemon.kill("SIGKILL");
    await daemon.exited;
    await world.writeLeases("virbr0", [leaseRow({ mac: DB.mac, address: WEB.address })]);
    await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "KVMNATD-SNAT"]);
    await world.start();
    await world.becomes("db", "active");
    const nat = await world.rules("nat");
    expect(nat).toMatch(/kvmnatd:db .*to-destination 192\.168\.122\.11:22/);
    expect(nat).not.toMatch(/kvmnatd:web /);
    expect(nat).toContain("-j MASQUERADE");
  });

  it("on_stop: remove removes all rules at the end", async () => {
    await world.configure(`on_stop: remove\n${GUESTS}`);
    await daemon.waitForLine(/config reloaded/);
    expect(await daemon.stop()).toBe(0);
    expect(await world.rules("nat")).not.toMatch(/kvmnatd/i);
    expect(await world.rules("filter")).not.toMatch(/kvmnatd/i);
  });
});

it("restores flushed rules on the event of the flush", async () => {
  await world.settles();
  const from = world.log().length;
  for (const table of ["nat", "filter"]) await world.lab.exec(["iptables-nft", "-t", table, "-F"]);
  await until("the rules are back", async () => {
    const text = (await world.rules("nat")) + (await world.rules("filter"));
    return text.includes(`${WEB.address}:22`) && text.includes("-A FORWARD -m comment");
  });
  // Not by a timer. A pass that begins between the two flushes may fail, and is retried.
  const repair = (): string | undefined =>
    world
      .log()
      .slice(from)
      .find(({ action }) => action === "add")?.reason;
  await expect.poll(repair).toMatch(/^(ruleset changed|retry)/);
  expect(await world.web()).toBe(WEB_ANSWERS);
});

describe("signals and second daemons", () => {
  it("restores flushed rules on SIGHUP, also without a rule monitor", async () => {
    await world.close();
    world = await createDaemonWorld("legacy");
    daemon = await world.start();
    await world.becomes("web", "active");
    // Another pass may repair the rules first; then the test tries again.
    await until("SIGHUP has restored the rules", async () => {
      for (const table of ["nat", "filter"]) await world.lab.exec(["iptables-legacy", "-t", table, "-F"]);
      await daemon.kill("SIGHUP");
      await until("the client reaches web", async () => (await world.web()) === WEB_ANSWERS);
      return daemon.log().some(({ event, reason }) => event === "rule" && reason === "SIGHUP");
    });
  });

  it("a second daemon with the same runtime folder exits, and reports the pid of the first", async () => {
    const { exitCode, stderr } = await world.lab.kvmnatd([
      "run",
      "-c",
      world.config,
      "--dnsmasq-dir",
      world.dnsmasqDir,
    ]);
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/runs already as process \d+/);
  });

  it("one daemon stays when five start at the same moment", async () => {
    await daemon.kill("SIGKILL");
    await daemon.exited;
    const command = [process.execPath, PROGRAM, "run", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
    const crowd = Array.from({ length: 5 }, () => world.lab.spawn(command));
    const codes: number[] = [];
    for (const each of crowd) void each.exited.then((code) => codes.push(code));
    await until("four have been refused", () => codes.length === 4);
    expect(codes).toEqual([1, 1, 1, 1]);
    await world.isWell();
  });

  it.each(["SIGTERM", "SIGINT"] as const)(
    "%s ends the daemon with exit code 0, and status reports that it does not run",
    async (signal) => {
      await daemon.kill(signal);
      expect(await daemon.exited).toBe(0);
      const { exitCode, stdout } = await world.run("status", GUESTS);
      expect(exitCode).toBe(4);
      expect(stdout).toContain("does not run");
    },
  );
});

describe("the log", () => {
  it("is text with priorities under journald", async () => {
    await daemon.stop();
    const run = `${process.execPath} ${PROGRAM} run -c ${world.config} --dnsmasq-dir ${world.dnsmasqDir}`;
    // systemd names the socket that it gave as standard output; here it is a pipe.
    const script = `(exec 3>&1; exec env JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/3) ${run}) | cat`;
    const child = world.lab.spawn(["sh", "-c", script]);
    await child.waitForLine(/^<6>kvmnatd \d+\.\d+\.\d+ starts with /);
    await world.leases(leaseRow({ mac: WEB.mac, address: "192.168.122.77" }));
    await child.waitForLine(/^<6>\+ iptables -t nat .*192\.168\.122\.77:22$/);
    await world.configure("guests: [");
    await child.waitForLine(/^<3>.*kvmnatd\.yaml: line \d+: /);
    expect(child.lines.filter((line) => !/^<[2-7]>/.test(line))).toEqual([]);
  });

  it("is text without colour on a terminal with NO_COLOR", async () => {
    await daemon.stop();
    const run = `${process.execPath} ${PROGRAM} run -c ${world.config} --dnsmasq-dir ${world.dnsmasqDir}`;
    const child = world.lab.spawn(["script", "-qec", run, "/dev/null"], {
      env: { NO_COLOR: "1", TERM: "xterm" },
    });
    const line = await child.waitForLine(/kvmnatd .* starts with/);
    expect(line.trim()).toMatch(/^\[\d\d:\d\d:\d\d\] INFO: kvmnatd [\d.]+ starts with \S+$/);
    await child.kill("SIGTERM");
  });
});

describe("the iptables variant", () => {
  it("a config that changes from nft to legacy moves the rules and leaves none in nft", async () => {
    await writeFile(world.config, `iptables: legacy\n${GUESTS}`);
    await until("legacy has the rules", async () =>
      (await world.lab.exec(["iptables-legacy-save", "-t", "nat"])).stdout.includes(`${WEB.address}:22`),
    );
    await until("nft has none", async () => !/kvmnatd/i.test(await world.rules("nat")));
  });
});

function withoutCounters(text: string): string {
  return text.replace(/^#.*$|\[\d+:\d+\]/gm, "");
}

/** @returns the CPU time that the daemon and its programs have used, in seconds */
async function cpuSeconds(): Promise<number> {
  const { stdout } = await world.lab.exec([
    "sh",
    "-c",
    "cat /proc/$(pgrep -of 'kvmnatd.js run')/stat; getconf CLK_TCK",
  ]);
  const [stat = "", ticks] = stdout.trim().split("\n");
  const fields = stat
    .slice(stat.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number);
  const [own = 0, system = 0, children = 0, childrenSystem = 0] = fields.slice(11, 15);
  return (own + system + children + childrenSystem) / Number(ticks);
}
