import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { until } from "../support/lab.ts";
import { createGuest, createStage, NOTHING } from "../support/libvirt.ts";
import type { LabGuest, Libvirt, Stage } from "../support/libvirt.ts";

const CONFIG = `
guests:
  devstack:
    ports: [1122:22]
`;
const JUMP = 'jump kvmnatd comment "kvmnatd:@jump"';

interface Picture {
  readonly throughForward: string;
  /** What a client gets that routes to the guest's own address and port, past the forward. */
  readonly past: string;
  /** It is libvirt's table that closes the guest. */
  readonly rejects: boolean;
  /** kvmnatd's jump is there. */
  readonly jump: boolean;
}

/**
 * libvirt's nftables backend, by the libvirt that has it: its reject stands in a table of its own, which libvirt fills
 * anew in each of these cases. A packet proves each time that the forward gets past it, and that nothing else does.
 */
describe("libvirt's nftables backend", () => {
  let stage: Stage;
  let libvirt: Libvirt;
  let guest: LabGuest;
  let address: string;

  beforeAll(async () => {
    stage = await createStage(CONFIG, { backend: "nftables" });
    ({ libvirt } = stage);
    guest = await createGuest(libvirt, "devstack", "52:54:00:6c:3c:01");
    await guest.serve(22);
  });
  afterAll(() => stage.close());
  beforeEach(({ onTestFailed }) => onTestFailed(() => stage.dump()));

  async function sh(script: string): Promise<string> {
    return (await libvirt.lab.exec(["sh", "-ec", script])).stdout.trim();
  }

  /** libvirt's own tables of both families, without counters. */
  const tables = (): Promise<string> =>
    sh("for family in ip ip6; do nft -s list table $family libvirt_network; done");
  const rulesOf = async (chain: string): Promise<readonly string[]> =>
    (await sh(`nft -s list chain ip libvirt_network ${chain}`)).split("\n").map((line) => line.trim());
  const rejects = async (): Promise<boolean> =>
    (await rulesOf("guest_input")).includes('oif "virbr0" counter reject');

  const hasJump = async (): Promise<boolean> => (await rulesOf("forward")).includes(JUMP);
  const greeting = (): string => `devstack at ${address} sees 10.99.0.2`;

  const past = (): Promise<string> =>
    sh(`ip netns exec client socat -u TCP4:${address}:22,connect-timeout=1 - 2>/dev/null || echo ${NOTHING}`);

  /** Once a client gets anything at all through the forward. */
  async function look(): Promise<Picture> {
    const throughForward = await until("a client gets an answer", async () => {
      const answer = await libvirt.dial(1122);
      return answer !== NOTHING && answer;
    });
    return { throughForward, past: await past(), rejects: await rejects(), jump: await hasJump() };
  }

  const right = (): Picture => ({
    throughForward: greeting(),
    past: NOTHING,
    rejects: true,
    jump: true,
  });

  it("passes the forward when the daemon ran before the first net-start", async () => {
    await stage.startDaemon();
    await until("it says that it waits", () => stage.log().some(({ event }) => event === "waiting"));
    await libvirt.start();
    expect(await sh("nft list tables")).not.toContain("libvirt_network");
    await libvirt.startNetwork();
    await guest.powerOn();
    address = await guest.takeLease();
    expect(await look()).toEqual(right());
    await stage.becomes("active");
  });

  it("SIGHUP", async () => {
    await libvirt.reload();
    expect(await look()).toEqual(right());
  });

  it("net-update", async () => {
    await libvirt.reserve(guest.mac, address);
    expect(await look()).toEqual(right());
  });

  it("restart of libvirtd", async () => {
    await libvirt.restart();
    expect(await look()).toEqual(right());
  });

  it("net-destroy and net-start", async () => {
    await libvirt.stopNetwork();
    await stage.becomes("pending");
    await libvirt.startNetwork();
    await guest.powerOn();
    expect(await look()).toEqual(right());
    await stage.becomes("active");
  });

  it("a flush of the whole ruleset, then a restart of libvirtd", async () => {
    await sh("nft flush ruleset");
    // libvirt's table comes back with its restart only; until then nothing closes the guest.
    await until("kvmnatd's own rules are back", async () => (await libvirt.dial(1122)) !== NOTHING);
    expect(await sh("nft list tables")).not.toContain("libvirt_network");
    expect(await past()).toBe(greeting());
    await libvirt.restart();
    await until("the jump is back", hasJump);
    expect(await look()).toEqual(right());
  });

  it("a switch to iptables", async () => {
    await libvirt.setBackend("iptables");
    await libvirt.restart();
    // libvirt puts its jumps before ours, and leaves its table behind, empty.
    await until("ours comes first", async () => {
      const rules = (await sh("iptables -S FORWARD")).split("\n");
      const place = (chain: string): number => rules.findIndex((rule) => rule.endsWith(`-j ${chain}`));
      return place("KVMNATD-FWD") !== -1 && place("KVMNATD-FWD") < place("LIBVIRT_FWI");
    });
    await until(
      "nothing of kvmnatd's is left in the table that is no longer in use",
      async () => !(await tables()).includes("kvmnatd"),
    );
    expect(await look()).toEqual({ ...right(), rejects: false, jump: false });
  });

  it("a switch back to nftables", async () => {
    await libvirt.setBackend("nftables");
    await libvirt.restart();
    await until("the jump is back", hasJump);
    expect(await look()).toEqual(right());
    await stage.becomes("active");
  });

  it("teardown leaves libvirt's tables unchanged", async () => {
    await stage.stopDaemon();
    expect(await tables()).toContain("kvmnatd");
    expect((await stage.kvmnatd("teardown")).exitCode).toBe(0);
    const left = await tables();
    expect(await past()).toBe(NOTHING);
    expect(await libvirt.dial(1122)).toBe(NOTHING);
    await sh("nft flush ruleset");
    await libvirt.restart();
    await until("libvirt's rules are back", rejects);
    expect(left).toBe(await tables());
    expect((await stage.kvmnatd("apply")).exitCode).toBe(0);
    expect(await look()).toEqual(right());
    expect((await stage.kvmnatd("teardown")).exitCode).toBe(0);
    expect(await tables()).toBe(left);
    expect(await sh("iptables-save; ip6tables-save; nft list ruleset")).not.toMatch(/kvmnatd/i);
  });
});
