import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { PROGRAM } from "../../support/lab.ts";
import { openTmux } from "../../support/tmux.ts";
import type { Tmux } from "../../support/tmux.ts";
import { DB, leaseRow, WEB } from "../../support/world.ts";

const SOON = { timeout: 120_000 };
let world: DaemonWorld;
let tmux: Tmux;
beforeEach(async () => {
  world = await createDaemonWorld();
  tmux = await openTmux(world.lab, 140, 20);
  await tmux.type("echo was here before");
  await expect.poll(() => tmux.screen(), SOON).toMatch(/^was here before$/m);
});
afterEach(() => world.close());

async function watch(): Promise<void> {
  await tmux.type(`${process.execPath} ${PROGRAM} status --watch; echo left with $?`);
  await expect.poll(() => tmux.screen(), SOON).toMatch(/q quits\n*$/);
}

/** The program has ended well, and what it found is there again: screen, cursor, wrapping, echo. */
async function isRestored(exitCode = 0): Promise<void> {
  await expect.poll(() => tmux.screen(), SOON).toMatch(new RegExp(`^left with ${exitCode}$`, "m"));
  expect(await tmux.screen()).toMatch(/^was here before$/m);
  expect(await tmux.ask("#{alternate_on} #{cursor_flag} #{wrap_flag}")).toBe("0 1 1");
  await tmux.type("echo again; stty -a");
  await expect.poll(() => tmux.screen(), SOON).toMatch(/^again$/m);
  await expect.poll(() => tmux.screen(), SOON).toMatch(/ icanon .*\n?.* echo /);
}

const ports = (count: number): string =>
  `guests:\n  web: {ports: [${Array.from({ length: count }, (_, at) => `${3000 + at}:22`).join(", ")}]}\n`;

describe("kvmnatd status --watch", () => {
  it("shows the table, follows leases and counters, and restores the terminal", async () => {
    await world.start();
    await world.isWell();
    await watch();
    expect(await tmux.ask("#{alternate_on} #{cursor_flag}")).toBe("1 0");
    expect(await tmux.screen()).toMatch(/^kvmnatd .*2 of 2 forwards active.*\n\nGUEST +PUBLISHED/);
    expect(await tmux.screen()).toMatch(/^web +\*:1122\/tcp +192\.168\.122\.11:22 +active .* 0\/0/m);
    await world.web();
    await expect.poll(() => tmux.screen(), SOON).toMatch(/^web +\*:1122\/tcp .* 1\/\d\d/m);
    await world.writeLeases("virbr0", [leaseRow({ mac: WEB.mac, address: DB.address })]);
    await expect.poll(() => tmux.screen(), SOON).toMatch(/^web +\*:1122\/tcp +192\.168\.122\.12:22 +active/m);
    await tmux.press("q");
    await isRestored();
  });

  it("fits the screen at any size, and scrolls", async () => {
    await world.configure(ports(40));
    await world.start();
    await world.isWell();
    await watch();
    // 20 lines: the daemon, a blank, the head, 16 forwards, what is missing.
    expect(await tmux.screen()).toMatch(/:3015\/tcp [^\n]*\n24 more below; [^\n]*q quits\n$/);
    await tmux.press("Down", "j", "j");
    await expect.poll(() => tmux.screen(), SOON).toMatch(/^3 more above, 21 more below; /m);
    expect(await tmux.screen()).toMatch(/\nGUEST [^\n]*\nweb +\*:3003\/tcp /);
    await tmux.press("G");
    await expect.poll(() => tmux.screen(), SOON).toMatch(/:3039\/tcp [^\n]*\n24 more above; /);
    await tmux.press("j");
    await tmux.resize(60, 10);
    await expect.poll(() => tmux.screen(), SOON).toMatch(/:3028\/tcp [^\n]*\n24 more above, 11 more below; /);
    const lines = (await tmux.screen()).trimEnd().split("\n");
    expect(lines).toHaveLength(10);
    expect(lines.filter((line) => line.startsWith("web "))).toHaveLength(5);
    await tmux.resize(140, 60);
    await expect.poll(() => tmux.screen(), SOON).toMatch(/:3039\/tcp [^\n]*\nq quits\n/);
    for (const [columns, rows] of [
      [5, 3],
      [1, 1],
      [140, 20],
    ] as const)
      await tmux.resize(columns, rows);
    await expect.poll(() => tmux.screen(), SOON).toMatch(/24 more (above|below)/);
    await tmux.press("C-c");
    await isRestored();
  });

  it("waits for a daemon, and for the next one", async () => {
    await watch();
    expect(await tmux.screen()).toMatch(/^kvmnatd does not run; .*waiting for it/);
    const daemon = await world.start();
    await expect.poll(() => tmux.screen(), SOON).toMatch(/2 of 2 forwards active/);
    await daemon.kill("SIGKILL");
    await expect.poll(() => tmux.screen(), SOON).toMatch(/^kvmnatd does not run/);
    expect(await tmux.screen()).not.toMatch(/1122/);
    await world.start();
    await expect.poll(() => tmux.screen(), SOON).toMatch(/2 of 2 forwards active/);
    await tmux.press("q");
    await isRestored();
  });

  it("shows problems on a part of the screen, without control characters", async () => {
    const daemon = await world.start();
    await world.isWell();
    await watch();
    await world.configure("guests: 5\n");
    await expect.poll(() => tmux.screen(), SOON).toMatch(/^error: .*guests/m);
    const row = leaseRow(
      { mac: "52:54:00:00:00:99", address: "192.168.122.99" },
      { hostname: "\u001b[2J\u001b[31mx\r\n" },
    );
    await world.forgeLeases("virbr0", [leaseRow(WEB), leaseRow(DB), row]);
    // As a daemon might write it that does not know better.
    const file = join(world.lab.dir, "run/status.json");
    const status = await world.status();
    const evil = { code: "x", severity: "error", message: `a\u001b[2J\u001b[5;5H\r\n${"word ".repeat(500)}` };
    await daemon.kill("SIGSTOP");
    await writeFile(file, JSON.stringify({ ...status, schema: 1, problems: [evil] }));
    await expect
      .poll(() => tmux.screen(), SOON)
      .toMatch(/error: a\\u\{1b\}\[2J\\u\{1b\}\[5;5H\\u\{d\}\\u\{a\}word word/);
    expect(await tmux.screen()).toMatch(/^kvmnatd [^]*\nweb +\*:1122[^]*q quits\n*$/);
    await tmux.press("q");
    await isRestored();
  });

  it("restores the terminal when a signal ends it", async () => {
    await watch();
    await world.lab.exec([
      "sh",
      "-c",
      "kill -TERM $(ps -eo pid,args | awk '/[s]tatus --watch$/ {print $1}')",
    ]);
    await isRestored();
  });

  it("refuses to run without a terminal", async () => {
    const { exitCode, stderr } = await world.lab.kvmnatd(["status", "--watch"]);
    expect(exitCode).toBe(64);
    expect(stderr).toMatch(/--watch needs a terminal/);
    expect((await world.lab.kvmnatd(["status", "--watch", "--json"])).exitCode).toBe(64);
  });
});
