import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { CLIENT, FAR, HOST, leaseRow } from "../../support/world.ts";

/** Addresses, bridges and networks that come and go while the daemon runs. */
const LATER = "198.51.100.77";
const SOON = { timeout: 120_000 };
let world: DaemonWorld;

beforeEach(async () => {
  world = await createDaemonWorld("nft", "linger: 300ms\n");
  await world.writeLeases("virbr1", [leaseRow(FAR)]);
  await world.writeMacs("virbr1", { far: [FAR.mac] });
  await world.serve("far", "far", ["tcp:22"]);
  await world.configure(
    `guests:\n  web: {ports: ["${LATER}:1122:22", "${HOST}:1123:22"]}\n  far: {ports: [1322:22]}\n`,
  );
  await world.start();
});
afterEach(() => world.close());

const sh = (script: string): Promise<unknown> => world.lab.exec(["sh", "-ec", script]);
const why = async (published: string): Promise<string | null | undefined> =>
  (await world.status()).forwards.find((forward) => forward.published === published)?.why;

it("a forward is pending with the reason while its host address is missing", async () => {
  await expect.poll(() => why("1122"), SOON).toBe(`address ${LATER}: not on this host (yet)`);
  expect(await world.ask("client", "tcp", HOST, 1123)).toBe(`web 22 ${CLIENT}`);
  await sh(`ip address add ${LATER}/24 dev lan0`);
  await expect.poll(() => world.ask("client", "tcp", LATER, 1122), SOON).toBe(`web 22 ${CLIENT}`);
  await world.becomes("web", "active");
  await sh(`ip address del ${LATER}/24 dev lan0`);
  await expect.poll(() => why("1122"), SOON).toBe(`address ${LATER}: not on this host (yet)`);
  expect(await world.rules("nat")).not.toContain(LATER);
});

it("a forward is active again after its bridge was deleted and created again", async () => {
  const far = (): Promise<string> => world.ask("client", "tcp", HOST, 1322);
  await expect.poll(far, SOON).toBe(`far 22 ${CLIENT}`);
  await sh("ip link del virbr1");
  await expect.poll(() => why("1322"), SOON).toMatch(/network virbr1 is down/);
  expect(await world.rules("filter")).not.toMatch(/KVMNATD-FWD .*virbr1/);
  expect(await world.ask("client", "tcp", HOST, 1123)).toBe(`web 22 ${CLIENT}`);
  await sh(
    "ip link add virbr1 type bridge stp_state 0 forward_delay 0; ip address add 10.7.0.1/24 dev virbr1; ip link set virbr1 up; ip link set far-tap master virbr1",
  );
  await expect.poll(far, SOON).toBe(`far 22 ${CLIENT}`);
});

it("kvmnatd removes a forward's rules when its network is undefined", async () => {
  await expect.poll(() => world.ask("client", "tcp", HOST, 1322), SOON).toBe(`far 22 ${CLIENT}`);
  await sh("ip link del virbr1");
  for (const file of ["virbr1.status", "virbr1.macs"]) await rm(join(world.dnsmasqDir, file));
  await expect.poll(() => world.rules("nat"), SOON).not.toContain("1322");
  expect(await world.rules("filter")).not.toContain('"kvmnatd:@virbr1"');
  expect(await world.ask("client", "tcp", HOST, 1123)).toBe(`web 22 ${CLIENT}`);
});
