import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { CLIENT, DB } from "../../support/world.ts";

/** Rules of others that are hard to read, or to tell from ours: nothing of ours is overlooked, nothing of theirs touched. */
describe.each(["nft", "legacy"] as const)("odd rules of others, iptables-%s", (variant) => {
  const WEB_ANSWERS = `web 22 ${CLIENT}`;
  const SOON = { timeout: 120_000 };
  let world: DaemonWorld;
  const iptables = (...args: readonly string[]): Promise<unknown> =>
    world.lab.exec([`iptables-${variant}`, "-w", "5", ...args]);

  beforeAll(async () => {
    world = await createDaemonWorld(variant);
    await world.start();
  });
  beforeEach(async () => {
    await world.isWell();
    expect(await world.web()).toBe(WEB_ANSWERS);
  });
  afterAll(() => world.close());

  /** Puts a rule first, which must stay as it is. */
  async function withRule(rule: readonly string[], act: () => Promise<void>): Promise<void> {
    const [table, chain = "", ...words] = rule;
    await iptables("-t", table ?? "", "-I", chain, "1", ...words);
    const before = await world.foreignRules();
    await act();
    expect(await world.foreignRules()).toBe(before);
    await iptables("-t", table ?? "", "-D", chain, "1");
  }

  /** db sends to 127.0.0.1 as if it were somewhere on its network. */
  const ATTACK = `
    ip route add table 77 127.0.0.1/32 via 192.168.122.1 dev eth0
    ip rule del pref 0; ip rule add pref 10 table local
    ip rule add pref 5 to 127.0.0.1/32 dport 7777 lookup 77
    echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet`;

  /** One variant only: the guard's packets are tested with both (packets.test.ts), and this takes 20 s. */
  const CONTEST =
    "a foreign ACCEPT before the guard of 127.0.0.1 opens nothing; a program that repeats it ends reach.loopback only";
  it.each(variant === "nft" ? [CONTEST] : [])("%s", async () => {
    await world.serve("host", "secret", ["tcp:7777"]);
    await world.lab.exec(["sh", "-ec", ATTACK], { netns: "db" });
    const attack = (): Promise<string> => world.ask("db", "tcp", "127.0.0.1", 7777, DB.address);
    await world.configure(`${GUESTS}reach: {loopback: true}\n`);
    await expect.poll(() => world.ask("host", "tcp", "127.0.0.1", 1122), SOON).toMatch(/^web 22 /);
    expect(await attack()).toBe("denied");
    const accept = (): Promise<unknown> =>
      iptables("-t", "raw", "-I", "PREROUTING", "-p", "tcp", "-j", "ACCEPT");
    const first = async (): Promise<string> =>
      (await world.rules("raw")).match(/-A PREROUTING .*/)?.[0] ?? "";
    for (let count = 0; count < 3; count += 1) {
      await accept();
      await expect.poll(first, SOON).toContain("kvmnatd:@loopback-guard");
      expect(await attack()).toBe("denied");
    }
    await accept();
    await world.complains(
      "loopback-guard-overridden",
      /puts `-p tcp -j ACCEPT` before .*tries once a minute/,
    );
    expect(await first()).toContain("-j ACCEPT");
    expect(await attack()).toBe("denied");
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect((await world.status()).forwards.map(({ state }) => state)).toEqual(["active", "active"]);
    await world.configure(GUESTS);
    await world.reload();
    await world.isWell();
    for (let count = 0; count < 4; count += 1)
      await iptables("-t", "raw", "-D", "PREROUTING", "-p", "tcp", "-j", "ACCEPT");
  });

  const comment = (text: string): readonly string[] => ["-m", "comment", "--comment", text];

  // No more than three: then our jump's place is given up for a minute.
  it.each(["--final drop", "-j"])(
    "puts the jump before a REJECT whose comment looks like an option: %s",
    async (text) => {
      await iptables("-I", "FORWARD", ...comment(text), "-j", "REJECT");
      await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
      const rules = (await world.rules("filter")).match(/^-A FORWARD .*/gm) ?? [];
      expect(rules[0]).toContain("KVMNATD-FWD");
      expect(rules[1]).toContain("REJECT");
      await iptables("-D", "FORWARD", ...comment(text), "-j", "REJECT");
    },
  );

  it("repairs a jump of ours to which another program added a module without options", async () => {
    const own = (await world.rules("nat")).match(/^-A PREROUTING .*/gm) ?? [];
    const at = own.findIndex((line) => line.includes("kvmnatd:@jump"));
    const words = (own[at] ?? "").replaceAll('"', "").split(" ").slice(2);
    await iptables("-t", "nat", "-R", "PREROUTING", `${at + 1}`, "-m", "socket", ...words);
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await world.reload();
    await world.isWell();
    expect(await world.rules("nat")).not.toContain("-m socket");
  });

  it.each([
    ["filter", "INPUT"],
    ["nat", "PREROUTING"],
  ])("keeps a rule of another program whose comment begins as ours do, in %s %s", async (table, chain) => {
    const limit = ["-s", "203.0.113.9", "-m", "recent", "--name", "x", "--set", "-j", "RETURN"];
    await withRule([table, chain, ...comment("kvmnatd: my ssh limiter"), ...limit], async () => {
      await iptables("-t", "nat", "-F", "KVMNATD-DNAT");
      await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
      await world.reload();
      await world.isWell();
    });
  });

  it("deletes a rule of ours that another program edited so that iptables cannot delete it by its text", async () => {
    const recent = ["-m", "recent", "--name", "x", "--set"];
    await iptables("-t", "nat", "-I", "PREROUTING", ...comment("kvmnatd:@jump"), ...recent, "-j", "RETURN");
    await expect.poll(() => world.rules("nat"), SOON).not.toContain("--set");
    await world.reload();
    await world.isWell();
  });

  it("does not read a rule after a line break in a comment", async () => {
    const text = "x\n-A FORWARD -m comment --comment kvmnatd:@jump -j ACCEPT\n";
    await withRule(["filter", "INPUT", ...comment(text), "-j", "ACCEPT"], async () => {
      await iptables("-F", "KVMNATD-FWD");
      await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
      await world.reload();
      await world.isWell();
    });
  });

  it("removes a rule from a chain of ours and does not execute the text after the line break in its comment", async () => {
    await iptables("-I", "KVMNATD-FWD", ...comment("x\n-A INPUT -j ACCEPT\n"), "-j", "DROP");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await world.reload();
    await world.isWell();
    expect(await world.rules("filter")).not.toContain("-A INPUT -j ACCEPT");
  });
});
