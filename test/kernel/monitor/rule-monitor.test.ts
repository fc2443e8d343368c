import { afterEach, describe, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { until } from "../../support/lab.ts";
import { scrape } from "../../support/scrape.ts";
import { CLIENT, DB, leaseRow, WEB } from "../../support/world.ts";

const WEB_ANSWERS = `web 22 ${CLIENT}`;
const SOON = { timeout: 120_000 };
let world: DaemonWorld;

afterEach(() => world.close());

async function begin(variant: "nft" | "legacy" = "nft", more = ""): Promise<void> {
  world = await createDaemonWorld(variant, `linger: 500ms\n${more}`);
  await world.start();
  await world.isWell();
  await world.idles();
}

async function sh(script: string): Promise<string> {
  return (await world.lab.exec(["sh", "-ec", script], { timeoutMs: 120_000 })).stdout.trim();
}

/**
 * The page shows values up to a second old: a page counts when it has the pass of a reload that was made just now.
 * @returns the number of passes that rule events triggered until then; requires `metrics: 9101` from the start
 */
async function countRulePasses(): Promise<number> {
  await world.reload();
  const { pass } = await world.status();
  return until(`the metrics include pass ${pass}`, async () => {
    const counts = [...(await scrape(world.lab))].filter(([name]) =>
      name.startsWith("kvmnatd_passes_total{"),
    );
    const sum = (some: typeof counts): number => some.reduce((total, [, count]) => total + count, 0);
    // An object, because `until` takes 0 for no answer.
    return sum(counts) >= pass && { rules: sum(counts.filter(([name]) => name.includes('trigger="rules"'))) };
  }).then(({ rules }) => rules);
}

describe("kvmnatd's own changes", () => {
  it("trigger no pass, so a moved lease is followed once", async () => {
    await begin("nft", "metrics: 9101\n");
    await world.leases(leaseRow(WEB), leaseRow({ mac: DB.mac, address: "192.168.122.99" }));
    await expect.poll(() => world.rules("nat"), SOON).toContain("192.168.122.99");
    await world.idles();
    const asked = world.log().filter(({ event, msg }) => event === "rule" && msg.includes("192.168.122.99"));
    expect(asked).toHaveLength(1);
    // A lease that expires changes a rule without an event: the page counts a pass under its first trigger only.
    // kvmnatd reads everything again when its own events come later than 200 ms, as on a busy host: then a further try.
    await until("a lease has expired without a pass for rules", async () => {
      const before = await countRulePasses();
      const from = world.log().length;
      await world.leases(leaseRow(WEB), leaseRow(DB, { "expiry-time": Math.floor(Date.now() / 1000) + 2 }));
      const removed = (): boolean =>
        world
          .log()
          .slice(from)
          .some(({ guest, msg }) => guest === "db" && /^- .*192\.168\.122\.12:22/.test(msg));
      await expect.poll(removed, SOON).toBe(true);
      await world.idles();
      return (await countRulePasses()) === before;
    });
  });
});

describe("another program", () => {
  it("that updates a set a thousand times a second causes no pass", async () => {
    await begin("nft", "metrics: 9101\n");
    await sh("nft add table inet busy; nft add set inet busy s '{ type ipv4_addr; }'");
    const before = await countRulePasses();
    const updates = Array.from(
      { length: 3000 },
      (_, index) => `add element inet busy s { 10.1.${index >> 8}.${index & 255} }`,
    );
    await world.lab.exec(["nft", "-i"], { input: `${updates.join("\n")}\n` });
    expect(await sh("nft list set inet busy s | grep -c 10.1")).not.toBe("0");
    await world.settles();
    expect(await countRulePasses()).toBe(before);
  });

  it("that updates a set all the time delays no repair, and the monitors end when the daemon is killed", async () => {
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
    await sh("iptables-nft -t nat -F KVMNATD-DNAT");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await daemon.kill("SIGKILL");
    await daemon.exited;
    const monitors = (): Promise<string> => sh("ps -C nft,ip -o args= | grep monitor || true");
    await expect.poll(monitors, SOON).toBe("");
    await busy.kill("SIGKILL");
  });

  it("that adds and removes harmless rules causes no pass, and a flush by it is repaired", async () => {
    await begin("nft", "metrics: 9101\n");
    await sh("iptables-nft -N DOCKER; iptables-nft -t nat -N DOCKER");
    const began = Date.now();
    const before = await countRulePasses();
    // As when a container with a published port starts and ends.
    const container = `iptables-nft -t nat -A DOCKER -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
      iptables-nft -A DOCKER -d 172.17.0.2 -p tcp --dport 80 -j ACCEPT
      iptables-nft -t nat -A POSTROUTING -s 172.17.0.2 -d 172.17.0.2 -p tcp --dport 80 -j MASQUERADE
      iptables-nft -t raw -A PREROUTING -d 172.17.0.2 ! -i docker0 -j DROP
      iptables-nft -t raw -D PREROUTING -d 172.17.0.2 ! -i docker0 -j DROP
      iptables-nft -t nat -D POSTROUTING -s 172.17.0.2 -d 172.17.0.2 -p tcp --dport 80 -j MASQUERADE
      iptables-nft -F DOCKER; iptables-nft -t nat -F DOCKER`;
    for (let index = 0; index < 5; index += 1) await sh(container);
    // Harmless events trigger a pass every ten seconds.
    const passes = (await countRulePasses()) - before;
    expect(passes).toBeLessThanOrEqual(1 + (Date.now() - began) / 10_000);
    await sh("iptables-nft -t nat -F POSTROUTING; iptables-nft -t nat -F PREROUTING");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await expect.poll(() => world.rules("nat"), SOON).toContain("-j KVMNATD-SNAT");
  });

  it("that changes rules all the time causes a pass a second, and leases are followed at once", async () => {
    await begin("nft", "metrics: 9101\n");
    const began = Date.now();
    const before = await countRulePasses();
    const busy = world.lab.spawn([
      "sh",
      "-c",
      "while :; do iptables-nft -A FORWARD -s 192.0.2.1 -j DROP; iptables-nft -D FORWARD -s 192.0.2.1 -j DROP; sleep 0.03; done",
    ]);
    await expect.poll(() => Date.now() - began, { timeout: 40_000, interval: 200 }).toBeGreaterThan(5000);
    const passes = (await countRulePasses()) - before;
    expect(passes).toBeGreaterThan(2);
    // One at once and three soon after, because the changes may end soon; then one per second.
    expect(passes).toBeLessThan(5 + (Date.now() - began) / 900);
    await world.leases(leaseRow(WEB), leaseRow({ mac: DB.mac, address: "192.168.122.99" }));
    await expect.poll(() => world.rules("nat"), SOON).toContain("192.168.122.99");
    await busy.kill("SIGKILL");
  });

  it(
    "whose 100,000 rules make the kernel drop events does not prevent the repair",
    { timeout: 400_000 },
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
      await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(WEB_ANSWERS);
    },
  );

  it("that keeps its rule before the jump is reported after three repairs until the rule is gone", async () => {
    await begin();
    // Inserts its rule before kvmnatd's jump whenever the jump is first.
    const rival = world.lab.spawn([
      "sh",
      "-c",
      "while :; do iptables-nft -S FORWARD | sed -n 2p | grep -q 'o virbr0 -j REJECT' || iptables-nft -I FORWARD -o virbr0 -j REJECT; sleep 0.02; done",
    ]);
    await world.complains(
      "jump-overridden",
      /puts `-o virbr0 -j REJECT.*before kvmnatd's jump again and again/,
    );
    await world.becomes("web", "degraded", /overridden/);
    const repairs = (): number =>
      world.log().filter(({ msg }) => /^\+ .*-I FORWARD .*KVMNATD-FWD/.test(msg)).length;
    await world.idles();
    // The first is from the start, before the rival; a repair that the rival undid at once is not logged.
    expect(repairs()).toBeLessThanOrEqual(4);
    expect(world.log().filter(({ event }) => event === "jump-overridden")).toHaveLength(1);
    await rival.kill("SIGKILL");
    await sh("while iptables-nft -D FORWARD -o virbr0 -j REJECT 2>/dev/null; do :; done");
    await world.isWell();
    expect(await world.web()).toBe(WEB_ANSWERS);
  });
});

describe("kvmnatd repairs its rules", () => {
  it("after another program has removed the rule that was before the jump several times", async () => {
    await begin();
    // With pauses, so that kvmnatd counts each event as one of another program.
    for (let index = 0; index < 3; index += 1) {
      await sh("iptables-nft -I FORWARD -o virbr0 -j REJECT");
      // The rule rejects until kvmnatd has repaired the position of its jump.
      await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    }
    await sh("iptables-nft -I FORWARD -o virbr0 -j REJECT");
    await world.complains("jump-overridden");
    await sh("while iptables-nft -D FORWARD -o virbr0 -j REJECT 2>/dev/null; do :; done");
    await world.isWell();
    const { forwards } = await world.status();
    expect(forwards.map(({ state }) => state)).toEqual(["active", "active"]);
  });

  it("when only the comment marks a rule as kvmnatd's, which nft does not print", async () => {
    await begin();
    const mark = "-m comment --comment kvmnatd:@jump";
    await sh(
      `iptables-nft -I FORWARD ${mark} -j ACCEPT; iptables-nft -t nat -I PREROUTING ${mark} -j ACCEPT`,
    );
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await expect.poll(() => world.rules("filter"), SOON).not.toMatch(/kvmnatd:@jump" -j ACCEPT/);
  });

  it("when a comment breaks the line of an event", async () => {
    await begin();
    const rule = 'insert rule ip filter FORWARD counter drop comment "let accept\nx"';
    await world.lab.exec(["nft", "-f", "-"], { input: `${rule}\n` });
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  });

  it("when iptables can read a table again that was reported as incompatible", async () => {
    await begin();
    await sh("iptables-nft -t nat -N DOCKER; nft add rule ip nat DOCKER ct mark and 1 == 1 accept");
    await world.complains("incompatible-table");
    await sh("nft flush chain ip nat DOCKER");
    await world.isWell();
  });

  it("each time they are flushed", async () => {
    await begin();
    for (let index = 0; index < 10; index += 1) {
      await sh("iptables-nft -F FORWARD; iptables-nft -t nat -F PREROUTING; iptables-nft -F KVMNATD-FWD");
      await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    }
    // Only libvirt can restore its own jumps.
    await world.complains("libvirt-jump-missing", /guests on virbr0, virbr1 are open .*restart libvirtd/);
  });

  it("every two seconds while the monitor does not run, and reports that", async () => {
    await begin();
    await sh("pkill -STOP -f '^nft -a monitor'; pkill -KILL -f '^nft -a monitor'");
    await world.complains(
      "change-monitoring-degraded",
      /`nft monitor` .*does not run: kvmnatd checks everything every 2 s/,
    );
    await sh("iptables-nft -F FORWARD; iptables-nft -t nat -F PREROUTING");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    // The monitor is restarted after five seconds.
    const codes = async (): Promise<readonly string[]> =>
      (await world.status()).problems.map(({ code }) => code);
    await expect.poll(codes, { timeout: 40_000 }).not.toContain("change-monitoring-degraded");
  });

  it("when another program has stopped the monitor, which kvmnatd resumes", async () => {
    await begin();
    await sh("pkill -STOP -f '^nft -a monitor'; iptables-nft -F FORWARD; iptables-nft -t nat -F PREROUTING");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  });

  it("every two seconds with iptables-legacy, which reports no changes", async () => {
    await begin("legacy");
    await world.complains("change-monitoring-degraded", /iptables-legacy reports no changes/);
    await sh("iptables-legacy -F FORWARD; iptables-legacy -t nat -F PREROUTING");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  });
});
