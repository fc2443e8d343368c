import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import type { Daemon } from "../../support/lab.ts";
import { CLIENT, DB, leaseRow, WEB } from "../../support/world.ts";

/** A named pipe has a reader wait until somebody writes: one in a file's place must not make the daemon wait for ever. */
let world: DaemonWorld;
let daemon: Daemon;
const WEB_ANSWERS = `web 22 ${CLIENT}`;

beforeEach(async () => {
  world = await createDaemonWorld();
  daemon = await world.start();
  await world.isWell();
  await world.settles();
});
afterEach(() => world.close());

async function putPipe(file: string): Promise<void> {
  await rm(file);
  await world.lab.exec(["mkfifo", "-m", "600", file]);
}

/** A lease that moves shows in the kernel. */
async function followsLeases(): Promise<void> {
  await world.leases(leaseRow(WEB), leaseRow({ mac: DB.mac, address: "192.168.122.99" }));
  await expect.poll(() => world.rules("nat"), { timeout: 120_000 }).toContain("192.168.122.99");
  expect(await world.web()).toBe(WEB_ANSWERS);
}

describe("a pipe in place of a file", () => {
  it.each(["virbr0.status", "virbr0.macs"])("%s: is reported until a file is there again", async (name) => {
    await putPipe(join(world.dnsmasqDir, name));
    await world.complains("lease-file", new RegExp(`${name}: .*what was known before stays`));
    expect(await world.web()).toBe(WEB_ANSWERS);
    await world.leases();
    await world.writeMacs("virbr0", { web: [WEB.mac], db: [DB.mac] });
    await world.isWell();
    await followsLeases();
  });

  it("the config: is reported, the last good one stays in force, and leases are followed", async () => {
    await putPipe(world.config);
    await world.complains("config-invalid", /the config read before stays in force/);
    await followsLeases();
    await rm(world.config);
    await world.configure(GUESTS);
    await world.isWell();
  });

  it("SIGTERM ends the daemon all the same", async () => {
    await putPipe(join(world.dnsmasqDir, "virbr0.status"));
    await daemon.kill("SIGTERM");
    await expect
      .poll(() => Promise.race([daemon.exited, Promise.resolve("still running")]), { timeout: 120_000 })
      .toBe(0);
  });
});
