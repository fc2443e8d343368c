import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { askDaemon } from "../../src/host/control-socket.ts";
import { readStatusFile, until } from "./lab.ts";
import type { Lab } from "./lab.ts";

const SETTLED_MS = 120_000;

/** Waits for a daemon that has made its first pass. @returns when the config on disk is in force, or rejected, after a whole pass */
export async function reload(lab: Lab): Promise<void> {
  await until("a daemon runs", async () => (await readStatusFile(lab)) !== undefined);
  await askDaemon(join(lab.dir, "run"), "reload");
}

/**
 * Waits until the daemon makes no pass for a while. A pass that changes nothing may write neither status nor log, but it
 * has a number: two reloads have successive numbers only when no pass was made between them.
 * @throws when the daemon still makes passes after a minute
 */
export async function settle(lab: Lab, quietMs: number): Promise<void> {
  const endsAt = Date.now() + SETTLED_MS;
  let before = await passOfReload(lab);
  for (;;) {
    await pause(quietMs);
    const pass = await passOfReload(lab);
    if (pass === before + 1) return;
    if (Date.now() > endsAt) throw new Error(`passes ${before} to ${pass} were made within ${quietMs} ms`);
    before = pass;
  }
}

/** Each reload writes the status. */
async function passOfReload(lab: Lab): Promise<number> {
  await reload(lab);
  return (await readStatusFile(lab))?.pass ?? Number.NaN;
}
