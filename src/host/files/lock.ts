import type { ReadStream } from "node:fs";
import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { CommandError, errnoOf } from "../../errors.ts";
import { runCommand } from "../exec/run-command.ts";

/** flock(1)'s exit code when another process holds the lock. */
const HELD = 1;

/** Open for as long as this process lives. */
let held: ReadStream | undefined;

/**
 * Takes the folder for this process, until it ends in whatever way: a lock belongs to an open file (flock(2)), so
 * flock(1), which gets ours, locks it for us. (Node has no call for that, and a file with a pid in it is neither taken
 * in one step nor given back by kill -9.) Only root can open the file: no other user can keep the daemon from starting.
 * @returns false when another process has it; true, too, where nobody can: the folder is read-only, or util-linux is missing
 */
export async function lockFolder(folder: string): Promise<boolean> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    const file = await open(join(folder, "lock"), "a+", 0o600);
    held = file.createReadStream();
    await runCommand(["flock", "--nonblock", "0"], { stdin: held });
    return true;
  } catch (error) {
    if (error instanceof CommandError) return error.exitCode !== HELD;
    if (errnoOf(error) === undefined) throw error;
    return true;
  }
}
