import { afterEach, describe, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { scrape } from "../../support/scrape.ts";
import { CLIENT, DB, leaseRow, WEB } from "../../support/world.ts";

/** Who changes rules, and what it costs. */
const WEB_ANSWERS = `web 22 ${CLIENT}`;
const SOON = { timeout: 20_000 };
/** SIGHUP's own look and its second one; on a slow machine the second one of the SIGHUP before comes after its count, too. */
const SECOND_LOOKS_AND_ASKED = 3;
/** What concerns nobody is looked at all the same, if no sooner. */
const ONCE_IN_TEN_SECONDS = 2;
let world: DaemonWorld;

afterEach(() => world.close());

async function begin(variant: "nft" | "legacy" = "nft", more = ""): Promise<void> {
  world = await createDaemonWorld(variant, `linger: 500ms\n${more}`);
  await world.start();
  await world.isWell();
  await world.settles();
}

async function sh(script: string): Promise<string> {
  return (await world.lab.exec(["sh", "-ec", script], { timeoutMs: 120_000 })).stdout.trim();
}

const pass = async (): Promise<number> => (await world.status()).pass;

/** How many passes there have been: one that finds nothing new in the rules alone is counted, but not told. */
async function passesUntilNow(): Promise<number> {
  const { updatedAt } = await world.status();
  await world.lab.exec(["pkill", "-HUP", "-f", "kvmnatd.js run"]);
  await expect.poll(async () => (await world.status()).updatedAt, SOON).not.toBe(updatedAt);
  return pass();
}

describe("own changes", () => {
  it("wake nobody: a lease that moves costs one pass and its second look", async () => {
    await begin();
    const before = await pass();
    await world.leases(leaseRow(WEB), leaseRow({ mac: DB.mac, address: "192.168.122.99" }));
    await expect.poll(() => world.rules("nat"), SOON).toContain("192.168.122.99");
    await world.settles();
    // Asked again soon after, as nobody answers at db's new address: the passes that time alone makes.
    const asked = world.log().filter(({ event, msg }) => event === "rule" && msg.includes("192.168.122.99"));
    expect(asked).toHaveLength(1);
    const byRules = world.log().filter(({ msg }) => msg.includes("ruleset changed"));
    expect(byRules).toEqual([]);
    expect((await pass()) - before).toBeGreaterThanOrEqual(2);
  });
});

describe("a busy neighbour", () => {
  it("who updates a set a thousand times a second costs no pass at all", async () => {
    await begin();
    await sh("nft add table inet busy; nft add set inet busy s '{ type ipv4_addr; }'");
    await world.settles();
    const before = await passesUntilNow();
    await world.settles();
    const updates = Array.from(
      { length: 3000 },
      (_, index) => `add element inet busy s { 10.1.${index >> 8}.${index & 255} }`,
    );
    await world.lab.exec(["nft", "-i"], { input: `${updates.join("\n")}\n` });
    expect(await sh("nft list set inet busy s | grep -c 10.1")).not.toBe("0");
    expect((await passesUntilNow()) - before).toBeLessThanOrEqual(SECOND_LOOKS_AND_ASKED);
  });

  it("who does so for long is listened to by turns, what is lost meanwhile is put back, and nobody stays stopped", async () => {
    world = await createDaemonWorld("nft");
    const daemon = await world.start();
    await world.isWell();
    await sh("nft add table inet busy; nft add set inet busy s '{ type ipv4_addr; }'");
    const update = "add element inet busy s { 10.$((i / 250 % 250)).$((i % 250)).$j }";
    const busy = world.lab.spawn([
      "sh",
      "-c",
      `i=0; while :; do j=0; while [ $j -lt 100 ]; do echo "${update}"; j=$((j + 1)); done; i=$((i + 1)); sleep 0.1; done | nft -i`,
    ]);
    const states = (): Promise<string> => sh("ps -C nft -o stat=,args= | grep monitor || true");
    await expect.poll(states, SOON).toMatch(/^T/);
    await sh("iptables-nft -t nat -F KVMNATD-DNAT");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await expect.poll(states, SOON).toMatch(/^T/);
    await daemon.kill("SIGKILL");
    await daemon.exited;
    await expect.poll(states, SOON).toBe("");
    expect(await sh("ps -C ip -o stat=,args= | grep monitor || true")).toBe("");
    await busy.kill("SIGKILL");
  });

  it("whose rules are never in our way costs next to no pass, and what it does to ours is seen all the same", async () => {
    await begin();
    await sh("iptables-nft -N DOCKER; iptables-nft -t nat -N DOCKER");
    const before = await passesUntilNow();
    await world.settles();
    // As when a container with a published port starts and ends.
    const container = `iptables-nft -t nat -A DOCKER -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
      iptables-nft -A DOCKER -d 172.17.0.2 -p tcp --dport 80 -j ACCEPT
      iptables-nft -t nat -A POSTROUTING -s 172.17.0.2 -d 172.17.0.2 -p tcp --dport 80 -j MASQUERADE
      iptables-nft -t raw -A PREROUTING -d 172.17.0.2 ! -i docker0 -j DROP
      iptables-nft -t raw -D PREROUTING -d 172.17.0.2 ! -i docker0 -j DROP
      iptables-nft -t nat -D POSTROUTING -s 172.17.0.2 -d 172.17.0.2 -p tcp --dport 80 -j MASQUERADE
      iptables-nft -F DOCKER; iptables-nft -t nat -F DOCKER`;
    for (let index = 0; index < 5; index += 1) await sh(container);
    expect((await passesUntilNow()) - before).toBeLessThanOrEqual(
      SECOND_LOOKS_AND_ASKED + ONCE_IN_TEN_SECONDS,
    );
    await sh("iptables-nft -t nat -F POSTROUTING; iptables-nft -t nat -F PREROUTING");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await expect.poll(() => world.rules("nat"), SOON).toContain("-j KVMNATD-SNAT");
  });

  it("who changes rules all the time costs about a pass a second, and leases are followed at once", async () => {
    await begin("nft", "metrics: 9101\n");
    /** By itself a daemon makes others: second looks, and what time alone brings. */
    const passesForRules = async (): Promise<number> => {
      const series = await scrape(world.lab);
      const counts = [...series].filter(([name]) => /^kvmnatd_passes_total\{.*trigger="rules"/.test(name));
      return counts.reduce((sum, [, count]) => sum + count, 0);
    };
    const before = await passesForRules();
    const began = Date.now();
    const busy = world.lab.spawn([
      "sh",
      "-c",
      "while :; do iptables-nft -A FORWARD -s 192.0.2.1 -j DROP; iptables-nft -D FORWARD -s 192.0.2.1 -j DROP; sleep 0.03; done",
    ]);
    await expect.poll(() => Date.now() - began, { timeout: 40_000, interval: 200 }).toBeGreaterThan(5000);
    const passes = (await passesForRules()) - before;
    expect(passes).toBeGreaterThan(2);
    // One at once, three more soon: it may be about to be over. Then one a second.
    expect(passes).toBeLessThan(5 + (Date.now() - began) / 900);
    await world.leases(leaseRow(WEB), leaseRow({ mac: DB.mac, address: "192.168.122.99" }));
    await expect.poll(() => world.rules("nat"), SOON).toContain("192.168.122.99");
    await busy.kill("SIGKILL");
  });

  it(
    "heals although the kernel lost the event among a hundred thousand others",
    { timeout: 240_000 },
    async () => {
      await begin();
      const rules = Array.from(
        { length: 100_000 },
        (_, index) =>
          `add rule ip crowd many ip saddr 10.${index >> 16}.${(index >> 8) & 255}.${index & 255} counter drop comment "one of a crowd of rules"\n`,
      );
      const load = world.lab.exec(["nft", "-f", "-"], {
        input: `add table ip crowd\nadd chain ip crowd many\n${rules.join("")}`,
        timeoutMs: 180_000,
      });
      await load;
      await sh("iptables-nft -t nat -F KVMNATD-DNAT");
      await expect.poll(() => world.web(), { timeout: 60_000 }).toBe(WEB_ANSWERS);
    },
  );

  it("who always wants to be first wins after three repairs; it is said who, and all is well once they are gone", async () => {
    await begin();
    // Whenever our jump is first, theirs goes before it.
    const rival = world.lab.spawn([
      "sh",
      "-c",
      "while :; do iptables-nft -S FORWARD | sed -n 2p | grep -q 'o virbr0 -j REJECT' || iptables-nft -I FORWARD -o virbr0 -j REJECT; sleep 0.02; done",
    ]);
    await world.complains(
      "jump-overridden",
      /puts `-o virbr0 -j REJECT.*before kvmnatd's jump again and again/,
    );
    await world.becomes("web", "degraded", /contested/);
    const repairs = (): number =>
      world.log().filter(({ msg }) => /^\+ .*-I FORWARD .*KVMNATD-FWD/.test(msg)).length;
    await world.settles();
    // The first is from the start, before there was a rival; one that the rival undid at once is no repair.
    expect(repairs()).toBeLessThanOrEqual(4);
    expect(world.log().filter(({ event }) => event === "jump-overridden")).toHaveLength(1);
    await rival.kill("SIGKILL");
    await sh("while iptables-nft -D FORWARD -o virbr0 -j REJECT 2>/dev/null; do :; done");
    await world.isWell();
    expect(await world.web()).toBe(WEB_ANSWERS);
  });
});

describe("tampering is healed", () => {
  it("where a program that was in the way again and again has gone", async () => {
    await begin();
    // Slowly: what it adds is seen as its own.
    for (let index = 0; index < 4; index += 1) {
      await sh("iptables-nft -I FORWARD -o virbr0 -j REJECT; sleep 0.6");
    }
    await world.complains("jump-overridden");
    await sh("while iptables-nft -D FORWARD -o virbr0 -j REJECT 2>/dev/null; do :; done");
    await world.isWell();
    const { forwards } = await world.status();
    expect(forwards.map(({ state }) => state)).toEqual(["active", "active"]);
  });

  it("where a rule is ours by its comment alone, of which nft tells nothing", async () => {
    await begin();
    const mark = "-m comment --comment kvmnatd:@jump";
    await sh(
      `iptables-nft -I FORWARD ${mark} -j ACCEPT; iptables-nft -t nat -I PREROUTING ${mark} -j ACCEPT`,
    );
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await expect.poll(() => world.rules("filter"), SOON).not.toMatch(/kvmnatd:@jump" -j ACCEPT/);
  });

  it("where a comment breaks the line that tells of a rule", async () => {
    await begin();
    const rule = 'insert rule ip filter FORWARD counter drop comment "let accept\nx"';
    await world.lab.exec(["nft", "-f", "-"], { input: `${rule}\n` });
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  });

  it("a table that iptables cannot read is told of, and all is well at once when it can", async () => {
    await begin();
    await sh("iptables-nft -t nat -N DOCKER; nft add rule ip nat DOCKER ct mark and 1 == 1 accept");
    await world.complains("incompatible-table");
    await sh("nft flush chain ip nat DOCKER");
    await world.isWell();
  });

  it("at once, again and again", async () => {
    await begin();
    for (let index = 0; index < 10; index += 1) {
      await sh("iptables-nft -F FORWARD; iptables-nft -t nat -F PREROUTING; iptables-nft -F KVMNATD-FWD");
      await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    }
    // What libvirt alone can put back is said.
    await world.complains("libvirt-jump-missing", /guests on virbr0, virbr1 are open .*restart libvirtd/);
  });

  it("when the monitor has died, by looking every two seconds, and it is said", async () => {
    await begin();
    await sh("pkill -STOP -f '^nft -a monitor'; pkill -KILL -f '^nft -a monitor'");
    await world.complains(
      "change-monitoring-degraded",
      /`nft monitor` .*does not run: everything is looked at every 2 s/,
    );
    await sh("iptables-nft -F FORWARD; iptables-nft -t nat -F PREROUTING");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    // It is started again after five seconds.
    const codes = async (): Promise<readonly string[]> =>
      (await world.status()).problems.map(({ code }) => code);
    await expect.poll(codes, { timeout: 40_000 }).not.toContain("change-monitoring-degraded");
  });

  it("when somebody has stopped the monitor, which goes on soon", async () => {
    await begin();
    await sh("pkill -STOP -f '^nft -a monitor'; iptables-nft -F FORWARD; iptables-nft -t nat -F PREROUTING");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  });

  it("with iptables-legacy, which tells nobody, by looking every two seconds", async () => {
    await begin("legacy");
    await world.complains("change-monitoring-degraded", /iptables-legacy tells nobody of a change/);
    await sh("iptables-legacy -F FORWARD; iptables-legacy -t nat -F PREROUTING");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  });
});
