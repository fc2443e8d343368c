import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { until } from "../support/lab.ts";
import { createGuest, createStage, NOTHING } from "../support/libvirt.ts";
import type { LabGuest, Libvirt, Stage } from "../support/libvirt.ts";

const CONFIG = `
guests:
  devstack:
    ports: [1122:22]
`;

interface Picture {
  readonly answer: string;
  /** Our jump in FORWARD comes before the one to libvirt's reject. */
  readonly beforeReject: boolean;
  /** Rules of libvirt and the admin. */
  readonly foreign: string;
}

/** libvirt rewrites its rules in each of these cases; a connection proves the order of the jumps each time. */
describe("forwards stay in force when libvirt rewrites its rules", () => {
  let stage: Stage;
  let libvirt: Libvirt;
  let guest: LabGuest;
  let address: string;
  let right: Picture;

  beforeAll(async () => {
    stage = await createStage(CONFIG);
    ({ libvirt } = stage);
    await libvirt.start();
    await libvirt.startNetwork();
    // Rules of an admin, before and behind libvirt's.
    await sh(
      "iptables -N ADMIN; iptables -A ADMIN -s 203.0.113.0/24 -j DROP -m comment --comment 'mine: \"keep\"'",
    );
    await sh("iptables -A FORWARD -j ADMIN; iptables -I INPUT -i lan0 -p tcp --dport 25 -j REJECT");
    await sh("iptables -t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 80");
    const foreign = await stage.foreignRules();
    guest = await createGuest(libvirt, "devstack", "52:54:00:6c:3c:01");
    await guest.serve(22);
    await guest.powerOn();
    address = await guest.takeLease();
    right = { answer: `devstack at ${address} sees 10.99.0.2`, beforeReject: true, foreign };
    await stage.startDaemon();
    await stage.becomes("active");
  });
  afterAll(() => stage.close());
  beforeEach(({ onTestFailed }) => onTestFailed(() => stage.dump()));

  async function sh(script: string): Promise<string> {
    return (await libvirt.lab.exec(["sh", "-ec", script])).stdout.trim();
  }

  /** The answer a client gets, once it gets one; the order of the jumps in FORWARD; and the rules of other programs. */
  async function look(): Promise<Picture> {
    const answer = await until("a client gets an answer", async () => {
      const greeting = await libvirt.dial(1122);
      return greeting !== NOTHING && greeting;
    });
    const rules = (await sh("iptables -S FORWARD")).split("\n");
    const place = (chain: string): number => rules.findIndex((rule) => rule.endsWith(`-j ${chain}`));
    const [ours, libvirts] = [place("KVMNATD-FWD"), place("LIBVIRT_FWI")];
    return { answer, beforeReject: ours !== -1 && ours < libvirts, foreign: await stage.foreignRules() };
  }

  const hasJump = async (): Promise<boolean> => (await sh("iptables -S FORWARD")).includes("KVMNATD-FWD");

  it("at the start, beside the rules of other programs", async () => {
    expect(await look()).toEqual(right);
  });

  it("after SIGHUP to libvirtd", async () => {
    await libvirt.reload();
    expect(await look()).toEqual(right);
  });

  it("after net-update", async () => {
    await libvirt.reserve(guest.mac, address);
    expect(await look()).toEqual(right);
  });

  it("after a restart of libvirtd", async () => {
    await libvirt.restart();
    expect(await look()).toEqual(right);
  });

  it("after a flush of FORWARD without any other event", async () => {
    await stage.rests();
    await sh("iptables -F FORWARD");
    // libvirt's jumps come back with its next restart only; only the admin restores the admin's jump.
    expect(await until("kvmnatd's jump is back", hasJump)).toBe(true);
  });

  it("after a restart of libvirtd that follows the flush and puts libvirt's jumps first", async () => {
    await sh("iptables -F FORWARD");
    await libvirt.lab.exec(["kill", "-HUP", `${(await stage.status()).pid}`]);
    await until("kvmnatd's jump is back", hasJump);
    await libvirt.restart();
    await sh("iptables -A FORWARD -j ADMIN");
    expect(await look()).toEqual(right);
  });

  it("after net-destroy and net-start", async () => {
    await libvirt.stopNetwork();
    await stage.becomes("pending");
    await libvirt.startNetwork();
    // net-start plugs no running guest in again: libvirt forgets the port, as with real taps.
    await guest.powerOn();
    expect(await look()).toEqual(right);
    await stage.becomes("active");
  });

  it("when libvirtd exits idle, a lease moves meanwhile, and socket activation starts libvirtd again", async () => {
    const ended = (): Promise<boolean> => sh("pidof libvirtd || true").then((pids) => pids === "");
    await sh("kill $(cat /run/libvirtd.pid)");
    await until("libvirtd has ended", ended);
    // libvirtd may exit before virsh connects.
    await sh(
      "for try in 1 2 3 4 5; do libvirtd --daemon --timeout 1 --pid-file /run/libvirtd.pid || :; ! virsh -q net-list || exit 0; done; exit 1",
    );
    // libvirt 9 exits after a second; libvirt 11 stays while a network is active, so the test ends it.
    await until("the second libvirtd is idle and has ended", ended, 5000).catch(() =>
      sh("kill $(cat /run/libvirtd.pid) || true"),
    );
    await until("libvirtd has ended again", ended);
    // Before a reload could repair something.
    expect(await look()).toEqual(right);
    await stage.rests();
    await stage.becomes("active");
    await guest.releaseLease();
    address = await guest.takeLease("192.168.122.88");
    right = { ...right, answer: `devstack at ${address} sees 10.99.0.2` };
    await until("the forward has followed", async () => (await libvirt.dial(1122)) === right.answer);
    await libvirt.start();
    expect(await look()).toEqual(right);
  });

  it("without a report of flushed libvirt rules in any of these cases", () => {
    expect(stage.log().filter(({ event }) => event === "libvirt-rules-missing")).toEqual([]);
  });

  it("until teardown, which removes every rule of kvmnatd and no other", async () => {
    await stage.stopDaemon();
    expect(await sh("iptables-save")).toContain("KVMNATD-");
    expect((await stage.kvmnatd("teardown")).exitCode).toBe(0);
    expect(await sh("iptables-save; ip6tables-save; nft list ruleset")).not.toMatch(/kvmnatd/i);
    expect(await stage.foreignRules()).toBe(right.foreign);
  });
});
