import { access, chmod, constants, mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toJson } from "../../sanitize.ts";
import type { DaemonStatus } from "../../status/status.ts";
import { STATUS_SCHEMA } from "../../status/status.ts";
import { errnoOf, KvmnatdError } from "../../errors.ts";
import { readStat } from "../network/proc.ts";

const NAME = "status.json";

/** @returns the folder that systemd names (several are separated by colons), or systemd's default */
export function runtimeFolder(env: NodeJS.ProcessEnv): string {
  return env["RUNTIME_DIRECTORY"]?.split(":")[0] || "/run/kvmnatd";
}

/** Replaces the file in one step: a reader sees the old or the new state, never half of one. */
export async function writeStatus(folder: string, status: DaemonStatus): Promise<void> {
  const file = join(folder, NAME);
  try {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    await writeFile(`${file}.new`, `${toJson(status)}\n`);
    // Every user may read it, whatever the umask.
    await chmod(`${file}.new`, 0o644);
    await rename(`${file}.new`, file);
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    const message = `${file} cannot be written (${code}): \`kvmnatd status\` is out of date; RUNTIME_DIRECTORY names another folder`;
    throw new KvmnatdError("status-write-failed", message, { cause: error });
  }
}

/** @returns undefined when no daemon has written one that this version understands */
export async function readStatus(folder: string): Promise<DaemonStatus | undefined> {
  try {
    const status = JSON.parse(await readFile(join(folder, NAME), "utf8")) as DaemonStatus;
    return status.schema === STATUS_SCHEMA ? status : undefined;
  } catch (error) {
    if (error instanceof SyntaxError || errnoOf(error) !== undefined) return undefined;
    throw error;
  }
}

/**
 * Creates a reader for repeated calls, which reads the file only when it has been replaced.
 * @returns a function that gives the same object while nothing has changed, and undefined while no daemon runs
 */
export function createStatusReader(folder: string): () => Promise<DaemonStatus | undefined> {
  let known: { readonly id: string; readonly status: DaemonStatus | undefined } | undefined;
  return async () => {
    const id = await identifyFile(join(folder, NAME));
    if (known?.id !== id) known = { id, status: await readStatus(folder) };
    return ifAlive(known.status);
  };
}

/** Each status is a new file. */
async function identifyFile(file: string): Promise<string> {
  try {
    const { ino, mtimeMs } = await stat(file);
    return `${ino} ${mtimeMs}`;
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    return code;
  }
}

/** @returns the status of the running daemon; undefined when none runs */
export async function readLiveStatus(folder: string): Promise<DaemonStatus | undefined> {
  return ifAlive(await readStatus(folder));
}

/** @throws KvmnatdError when the status may exist but must not be read: whether a daemon runs is then unknown */
export async function refuseUnreadable(folder: string): Promise<void> {
  const file = join(folder, NAME);
  try {
    await access(file, constants.R_OK);
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    if (errnoOf(error) !== "EACCES") return;
    const message = `${file} cannot be read (permission denied): whether kvmnatd runs is not known; ask as root`;
    throw new KvmnatdError("status-unreadable", message, { cause: error });
  }
}

async function ifAlive(status: DaemonStatus | undefined): Promise<DaemonStatus | undefined> {
  const alive = status === undefined ? undefined : readStat(status.pid);
  return alive?.startTicks === status?.startTicks ? status : undefined;
}
