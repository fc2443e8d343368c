import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { until } from "../support/lab.ts";
import { createStage } from "../support/libvirt.ts";
import type { Libvirt, Stage } from "../support/libvirt.ts";
import { createRealGuest } from "../support/real-guest.ts";
import type { Greeting, RealGuest } from "../support/real-guest.ts";

const PORT = 2007;
const CONFIG = `
linger: 1s
guests:
  web:
    ports: ["${PORT}:7/both"]
`;
const MAC = "52:54:00:6c:3c:01";
const NEXT_MAC = "52:54:00:6c:3c:02";
const RESERVED = "192.168.122.50";
const FILES = "/var/lib/libvirt/dnsmasq/virbr0";

type Lease = Awaited<ReturnType<Libvirt["leases"]>>[number];

/** One domain that QEMU boots, and what happens to a domain in its life. libvirt has its nftables backend. */
describe("a real guest", () => {
  let stage: Stage;
  let libvirt: Libvirt;
  let guest: RealGuest;
  /** The guest's last greeting: it tells which boot that was. */
  let last: Greeting;

  beforeAll(async () => {
    stage = await createStage(CONFIG, { backend: "nftables" });
    ({ libvirt } = stage);
    guest = await createRealGuest(libvirt, "web");
    await libvirt.start();
    await libvirt.startNetwork();
    await guest.define(MAC);
    await stage.startDaemon();
  });
  afterAll(() => stage.close());
  beforeEach(({ onTestFailed }) =>
    onTestFailed(async () => {
      await stage.dump();
      process.stderr.write(await guest.console());
    }),
  );

  async function sh(script: string): Promise<string> {
    return (await libvirt.lab.exec(["sh", "-ec", script])).stdout.trim();
  }

  async function lease(mac = MAC): Promise<Lease> {
    return until(`${mac} has a lease`, async () =>
      (await libvirt.leases()).find((row) => row["mac-address"] === mac),
    );
  }

  /** Both protocols lead to the same boot of the guest, which sees the client's own address. */
  async function isReached(greeting: Greeting): Promise<void> {
    expect(greeting).toEqual({ name: "web", boot: greeting.boot, client: "10.99.0.2" });
    expect(await guest.ask("udp", PORT)).toEqual(greeting);
    await stage.reload();
    await stage.becomes("active");
    last = greeting;
  }

  async function isPending(reason: RegExp): Promise<void> {
    await until(`both forwards are pending: ${String(reason)}`, async () => {
      const { forwards } = await stage.status();
      return (
        forwards.length === 2 &&
        forwards.every(({ state, why }) => state === "pending" && reason.test(why ?? ""))
      );
    });
    for (const protocol of ["tcp", "udp"] as const) expect(await guest.ask(protocol, PORT)).toBeUndefined();
  }

  /** Where the daemon says that both forwards lead. */
  async function addresses(): Promise<readonly (string | null)[]> {
    return (await stage.status()).forwards.map(({ address }) => address);
  }

  /** Does this, and tells the rules that the daemon has changed on account of it. */
  async function rulesChangedBy(act: () => Promise<void>): Promise<readonly string[]> {
    await stage.rests();
    const before = stage.log().length;
    await act();
    await stage.rests();
    return stage
      .log()
      .slice(before)
      .flatMap(({ rule }) => rule ?? []);
  }

  it("is reached by TCP and UDP after it has booted and taken a lease", async () => {
    await libvirt.virsh("start web");
    await isReached(await guest.answers(PORT));
    const { "ip-address": address } = await lease();
    expect(await addresses()).toEqual([address, address]);
  });

  it("keeps its forward and an open connection after suspend and resume", async () => {
    const held = guest.hold(PORT);
    held.stdin.write("before\n");
    await held.waitForLine(/^before$/);
    const changed = await rulesChangedBy(async () => {
      await libvirt.virsh("suspend web");
      held.stdin.write("meanwhile\n");
      expect(await guest.ask("tcp", PORT)).toBeUndefined();
      await stage.becomes("active");
      expect(held.lines).not.toContain("meanwhile");
      await libvirt.virsh("resume web");
      await held.waitForLine(/^meanwhile$/);
    });
    expect(changed).toEqual([]);
    await held.kill("SIGTERM");
    expect(await guest.answers(PORT)).toEqual(last);
    await isReached(last);
  });

  it("is off after managedsave, and active after a start that sends no DHCP request", async () => {
    const stamp = (): Promise<string> => sh(`stat -c '%i %y' ${FILES}.status`);
    const before = { stamp: await stamp(), leases: await libvirt.leases() };
    await libvirt.virsh("managedsave web");
    await isPending(/guest is off/);
    await libvirt.virsh("start web");
    expect(await guest.answers(PORT)).toEqual(last);
    await isReached(last);
    expect({ stamp: await stamp(), leases: await libvirt.leases() }).toEqual(before);
  });

  it("keeps its forward when a reservation is made, and moves it at the next renewal", async () => {
    const { "ip-address": old } = await lease();
    expect(old).not.toBe(RESERVED);
    expect(await rulesChangedBy(() => libvirt.reserve(MAC, RESERVED))).toEqual([]);
    expect(await guest.ask("tcp", PORT)).toEqual(last);
    await guest.order("renew", old);
    await until("the lease is the reserved one", async () => (await lease())["ip-address"] === RESERVED);
    expect(await guest.answers(PORT)).toEqual(last);
    await isReached(last);
    expect(await addresses()).toEqual([RESERVED, RESERVED]);
    expect(await sh("iptables-save")).not.toContain(`${old}:`);
  });

  it.each([
    ["a reboot from within", () => guest.order("reboot", RESERVED)],
    ["a reset", () => libvirt.virsh("reset web")],
  ])("is the same guest after %s: no rule changes", async (_what, boot) => {
    const changed = await rulesChangedBy(async () => {
      await boot();
      const greeting = await guest.answers(PORT, last.boot);
      expect(greeting.boot).not.toBe(last.boot);
      await isReached(greeting);
    });
    expect(changed).toEqual([]);
  });

  it("is off after destroy while its lease lives on, and active after start", async () => {
    await libvirt.virsh("destroy web");
    await isPending(/guest is off/);
    expect((await lease())["ip-address"]).toBe(RESERVED);
    await libvirt.virsh("start web");
    await isReached(await guest.answers(PORT, last.boot));
    expect(await addresses()).toEqual([RESERVED, RESERVED]);
  });

  it("keeps its forward with another MAC while the old lease lives on", async () => {
    await libvirt.virsh("destroy web");
    await guest.define(NEXT_MAC);
    await libvirt.virsh("start web");
    await isReached(await guest.answers(PORT, last.boot));
    const { "ip-address": address } = await lease(NEXT_MAC);
    expect((await lease(MAC))["ip-address"]).toBe(RESERVED);
    expect(address).not.toBe(RESERVED);
    expect(await addresses()).toEqual([address, address]);
  });

  it("is off when it was destroyed while the network was down, though libvirt's list is stale", async () => {
    await libvirt.stopNetwork();
    await isPending(/./);
    await libvirt.virsh("destroy web");
    await libvirt.startNetwork();
    expect(await libvirt.virsh("domstate web")).toBe("shut off");
    expect(JSON.parse(await sh(`cat ${FILES}.macs`))).toEqual([{ domain: "web", macs: [NEXT_MAC] }]);
    await isPending(/guest is off/);
    await libvirt.virsh("start web");
    await isReached(await guest.answers(PORT, last.boot));
  });
});
