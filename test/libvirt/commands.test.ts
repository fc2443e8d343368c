import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { until } from "../support/lab.ts";
import { createGuest, createStage } from "../support/libvirt.ts";
import type { LabGuest, Libvirt, Stage } from "../support/libvirt.ts";

const CONFIG = `
guests:
  devstack:
    ports: [1122:22]
  spare:
    mac: 52:54:00:6c:3c:02
    ports: [1123:22]
`;

/** What an admin is told, with libvirt's own files behind it. */
describe("commands beside a real libvirt", () => {
  let stage: Stage;
  let libvirt: Libvirt;
  let guest: LabGuest;
  let address: string;

  beforeAll(async () => {
    stage = await createStage(CONFIG);
    ({ libvirt } = stage);
    await libvirt.start();
    await libvirt.startNetwork();
    guest = await createGuest(libvirt, "devstack", "52:54:00:6c:3c:01");
    await guest.serve(22);
    await guest.powerOn();
    address = await guest.takeLease();
  });
  afterAll(() => stage.close());
  beforeEach(({ onTestFailed }) => onTestFailed(() => stage.dump()));

  it("status reports that no daemon runs", async () => {
    const { exitCode } = await stage.kvmnatd("status");
    expect(exitCode).toBe(4);
  });

  it("leases shows domain, address and network when no daemon runs", async () => {
    const { exitCode, stdout } = await stage.kvmnatd("leases", "--json");
    expect(exitCode).toBe(0);
    const [lease] = await libvirt.leases();
    expect(JSON.parse(stdout)).toEqual([
      {
        domain: "devstack",
        mac: guest.mac,
        address,
        hostname: null,
        expires: new Date((lease?.["expiry-time"] ?? 0) * 1000).toISOString(),
        network: "virbr0",
      },
    ]);
    expect((await stage.kvmnatd("leases")).stdout).toMatch(
      new RegExp(`devstack.*${guest.mac}.*${address}.*virbr0`),
    );
  });

  it("plan shows missing rules and changes nothing", async () => {
    const before = await stage.foreignRules();
    const { exitCode, stdout } = await stage.kvmnatd("plan");
    expect(exitCode).toBe(2);
    expect(stdout).toContain(`--dport 1122`);
    expect(stdout).toContain(`--to-destination ${address}:22`);
    const { changes } = JSON.parse((await stage.kvmnatd("plan", "--json")).stdout) as {
      changes: readonly { action: string; guest: string | null }[];
    };
    expect(changes.every(({ action }) => action === "add")).toBe(true);
    expect(changes.filter((change) => change.guest === "devstack")).toHaveLength(1);
    expect((await libvirt.lab.exec(["iptables-save"])).stdout).not.toContain("KVMNATD");
    expect(await stage.foreignRules()).toBe(before);
  });

  it("status shows active and pending forwards, with the reason", async () => {
    await stage.startDaemon();
    await until("devstack is active", async () =>
      (await stage.status()).forwards.some(({ state }) => state === "active"),
    );
    const { exitCode, stdout } = await stage.kvmnatd("status");
    expect(exitCode).toBe(3);
    expect(stdout).toMatch(new RegExp(`devstack.*1122.*${address}.*active`));
    expect(stdout).toMatch(/spare.*1123.*pending.*no live lease of 52:54:00:6c:3c:02/);
    expect((await stage.status()).forwards).toMatchObject([
      {
        guest: "devstack",
        protocol: "tcp",
        published: "1122",
        target: "22",
        state: "active",
        address,
        why: null,
      },
      { guest: "spare", state: "pending", address: null, why: "no live lease of 52:54:00:6c:3c:02" },
    ]);
  });

  it("status exits 0 when every forward is active", async () => {
    const spare = await createGuest(libvirt, "spare", "52:54:00:6c:3c:02");
    await spare.powerOn();
    await spare.takeLease();
    await stage.becomes("active");
    expect((await stage.kvmnatd("status")).exitCode).toBe(0);
  });

  it("plan is empty when the kernel is as desired, and shows drift otherwise", async () => {
    const converged = await stage.kvmnatd("plan", "--json");
    expect(converged).toMatchObject({ exitCode: 0 });
    expect(JSON.parse(converged.stdout)).toEqual({ changes: [] });
    // The daemon would repair it before anybody could look.
    await stage.stopDaemon();
    await libvirt.lab.exec(["iptables", "-t", "nat", "-D", "KVMNATD-DNAT", "1"]);
    const drifted = await stage.kvmnatd("plan", "--json");
    expect(drifted.exitCode).toBe(2);
    expect(JSON.parse(drifted.stdout)).toMatchObject({ changes: [{ action: "add", guest: "devstack" }] });
    expect((await stage.kvmnatd("apply")).exitCode).toBe(0);
    expect((await stage.kvmnatd("plan")).exitCode).toBe(0);
    expect(await libvirt.dial(1122)).toBe(`devstack at ${address} sees 10.99.0.2`);
  });
});
