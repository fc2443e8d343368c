import { afterEach, beforeEach, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import type { ExecResult } from "../../support/lab.ts";
import { CLIENT, LIBVIRT_TABLE } from "../../support/world.ts";

const WEB_ANSWERS = `web 22 ${CLIENT}`;
let world: DaemonWorld;

beforeEach(async () => {
  world = await createDaemonWorld("nft");
  await sh("iptables-nft -F; iptables-nft -X; iptables-nft -t nat -F; iptables-nft -t nat -X");
  await world.lab.exec(["nft", "-f", "-"], { input: LIBVIRT_TABLE });
});
afterEach(() => world.close());

async function sh(script: string): Promise<string> {
  return (await world.lab.exec(["sh", "-ec", script])).stdout.trim();
}

const table = (): Promise<string> => sh("nft -s list table ip libvirt_network");
const SOON = { timeout: 120_000 };

it("a forward passes libvirt's reject, and nothing else does", async () => {
  await world.start();
  await world.isWell();
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  expect(await world.ask("client", "tcp", "192.168.122.11", 22)).toBe("denied");
  const rules = world.log().filter(({ event }) => event === "rule");
  expect(rules.map(({ msg }) => msg)).toEqual(
    expect.arrayContaining([
      "+ nft add chain ip libvirt_network kvmnatd",
      '+ nft insert rule ip libvirt_network forward jump kvmnatd comment "kvmnatd:@jump"',
    ]),
  );
});

it("apply does what plan shows, and teardown restores libvirt's table", async () => {
  const before = await table();
  const run = (command: string): Promise<ExecResult> =>
    world.lab.kvmnatd([command, "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
  const plan = await run("plan");
  expect(plan.exitCode).toBe(2);
  expect(plan.stdout).toContain("+ nft insert rule ip libvirt_network forward jump kvmnatd");
  expect(await table()).toBe(before);
  expect((await run("apply")).exitCode).toBe(0);
  expect((await run("plan")).exitCode).toBe(0);
  expect((await run("teardown")).stdout).toContain("- nft delete chain ip libvirt_network kvmnatd");
  expect(await table()).toBe(before);
});

it.each([
  ["flushed", "nft flush chain ip libvirt_network kvmnatd"],
  ["pushed back", "nft insert rule ip libvirt_network forward counter jump guest_input"],
  ["edited", "nft insert rule ip libvirt_network kvmnatd oifname virbr0 drop"],
])("heals when it is %s", async (_what, tampering) => {
  await world.start();
  await world.isWell();
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  await world.settles();
  await sh(tampering);
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
});

it("follows libvirt to iptables and back", async () => {
  await world.start();
  await world.isWell();
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  // libvirt leaves its table behind, empty.
  const empty = ["guest_output", "guest_input", "guest_cross"].map(
    (chain) => `flush chain ip libvirt_network ${chain}`,
  );
  await sh(
    "iptables-nft -N LIBVIRT_FWI; iptables-nft -A LIBVIRT_FWI -o virbr0 -j REJECT; iptables-nft -I FORWARD -j LIBVIRT_FWI",
  );
  await world.lab.exec(["nft", "-f", "-"], { input: empty.join("\n") });
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  await expect.poll(table, SOON).not.toContain("kvmnatd");
  await sh("iptables-nft -F LIBVIRT_FWI");
  await sh("nft insert rule ip libvirt_network guest_input oif virbr0 counter reject");
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  expect(await table()).toContain("jump kvmnatd");
});

it("follows libvirt's restart after its whole table was flushed", async () => {
  await world.start();
  await world.isWell();
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  await sh("nft flush ruleset");
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  await world.lab.exec(["nft", "-f", "-"], { input: LIBVIRT_TABLE });
  await expect.poll(table, SOON).toContain("jump kvmnatd");
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
});
