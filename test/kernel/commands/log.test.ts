import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { PROGRAM, startDaemon, writeConfig } from "../../support/lab.ts";
import type { LabProcess, LogLine } from "../../support/lab.ts";
import { CLIENT, DB, leaseRow, WEB } from "../../support/world.ts";
import type { LeaseRow } from "../../support/world.ts";

/** Where the log goes must not matter to what is forwarded. */
let world: DaemonWorld;

beforeEach(async () => {
  world = await createDaemonWorld();
});
afterEach(() => world.close());

/** Starts the daemon in a shell, with its log redirected to `sink`. */
function runInto(sink: string): LabProcess {
  const run = `${process.execPath} ${PROGRAM} run -c ${world.config} --dnsmasq-dir ${world.dnsmasqDir}`;
  return world.lab.spawn(["sh", "-c", `${run} ${sink}`]);
}

/** Publishes enough ports that the lines of their rules exceed the capacity of a pipe (64 KiB). */
async function publishMany(more = ""): Promise<void> {
  const ports = Array.from({ length: 600 }, (_, index) => `${20_000 + index}:22`).join(", ");
  await world.configure(`guests:\n  web: {ports: [1122:22, ${ports}]}\n  db: {ports: [1222:22${more}]}\n`);
}

/** The guests swap their addresses; in the lab a namespace keeps its own, and its server's name. */
async function followsLeases(): Promise<void> {
  await world.leases(
    leaseRow({ mac: WEB.mac, address: DB.address }),
    leaseRow({ mac: DB.mac, address: WEB.address }),
  );
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
}

async function terminate(): Promise<void> {
  const { pid } = await world.status();
  await world.lab.exec(["kill", "-TERM", `${pid}`]);
}

async function isRunning(): Promise<boolean> {
  return (await world.shownStatus()).running;
}

describe("a reader of the log", () => {
  it("that blocks delays neither the passes nor the end of the daemon", async () => {
    await publishMany();
    runInto("| sleep 1000");
    await world.isWell();
    await followsLeases();
    await terminate();
    await expect.poll(isRunning, { timeout: 120_000 }).toBe(false);
  });

  it("that is slow gets every line in order", async () => {
    await publishMany();
    const file = join(world.lab.dir, "log");
    runInto(
      `| (read first; echo "$first" > ${file}; while [ ! -e ${file}.go ]; do sleep 0.1; done; cat >> ${file})`,
    );
    await world.isWell();
    await followsLeases();
    await publishMany(", 1223:22");
    await expect.poll(() => world.rules("nat"), { timeout: 120_000 }).toContain("--dport 1223 ");
    await world.lab.exec(["touch", `${file}.go`]);
    await expect
      .poll(() => readFile(file, "utf8"), { timeout: 120_000 })
      .toMatch(/\+ [^\n]*--dport 1223 .*\n$/);
    const lines = (await readFile(file, "utf8")).trim().split("\n");
    const passes = lines.map((line) => (JSON.parse(line) as LogLine).pass ?? 0).filter((pass) => pass > 0);
    expect(lines.length).toBeGreaterThan(1800);
    expect(passes).toEqual(passes.toSorted((a, b) => a - b));
  });
});

it("the status reports a log on a full disk, and forwards work", async () => {
  runInto("> /dev/full");
  await world.isWell();
  await followsLeases();
  await world.complains("log-write-failed", /ENOSPC/);
  await terminate();
  await expect.poll(isRunning, { timeout: 120_000 }).toBe(false);
});

it("a guest that keeps changing its malformed lease rows causes at most ten problems a minute in the log", async () => {
  const daemon = await world.start();
  await world.isWell();
  const odd = (round: number, index: number): LeaseRow => {
    const mac = `20-00:00:00:00:${round + 10}:${index + 10}`;
    return leaseRow({ mac, address: `192.168.122.${index + 20}` });
  };
  for (let round = 0; round < 8; round += 1) {
    const rows = Array.from({ length: 9 }, (_, index) => odd(round, index));
    await world.forgeLeases("virbr0", [leaseRow(WEB), leaseRow(DB), ...rows]);
    await world.reload();
  }
  await world.configure("not a map\n");
  await daemon.waitForLine(/"event":"config-invalid".*stays in force/);
  const count = (event: string): number => daemon.log().filter((line) => line.event === event).length;
  expect(count("lease-row")).toBeLessThanOrEqual(20);
  expect(count("problem-resolved")).toBeLessThanOrEqual(20);
});

it(
  "a daemon reports a second one that overwrites its rules, and restores them when the second ends",
  { timeout: 600_000 },
  async () => {
    const one = await world.start();
    await world.isWell();
    const config = await writeConfig(
      world.lab,
      "iptables: nft\nguests:\n  web: {ports: [1122:22, 1999:22]}\n",
      "two.yaml",
    );
    const options = ["-c", config, "--dnsmasq-dir", world.dnsmasqDir];
    const two = await startDaemon(world.lab, options, { RUNTIME_DIRECTORY: join(world.lab.dir, "two") });
    await one.waitForLine(/"event":"rules-overwritten".*another kvmnatd with another config/, 120_000);
    await two.stop();
    await expect.poll(() => world.rules("nat"), { timeout: 120_000 }).not.toContain("--dport 1999");
    expect(await world.web()).toBe(`web 22 ${CLIENT}`);
  },
);
