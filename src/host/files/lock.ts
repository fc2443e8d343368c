import type { ReadStream } from "node:fs";
import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { CommandError, errnoOf } from "../../errors.ts";
import { runCommand } from "../exec/run-command.ts";

/** flock(1)'s exit code when another process holds the lock. */
const HELD = 1;

export interface FolderLock {
  /** @returns false when another process holds the lock; true also when locks do not work: read-only folder, no util-linux */
  acquire(folder: string): Promise<boolean>;
}

/**
 * Locks folders for this process until the process ends in any way. A lock belongs to an open file (flock(2)), so
 * flock(1), which inherits our open file, locks it for us. Node has no call for that; a file with a PID in it cannot be
 * taken in one step, and survives kill -9. Only root can open the file, so no other user can block the daemon's start.
 */
export function createFolderLock(): FolderLock {
  /** Kept open: the kernel releases a lock when its file is closed. */
  const held = new Set<ReadStream>();
  return {
    acquire: async (folder) => {
      try {
        await mkdir(folder, { recursive: true, mode: 0o755 });
        const file = (await open(join(folder, "lock"), "a+", 0o600)).createReadStream();
        held.add(file);
        await runCommand(["flock", "--nonblock", "0"], { stdin: file });
        return true;
      } catch (error) {
        if (error instanceof CommandError) return error.exitCode !== HELD;
        if (errnoOf(error) === undefined) throw error;
        return true;
      }
    },
  };
}
