import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toJson } from "../core/printable.ts";
import type { DaemonStatus } from "../core/status.ts";
import { STATUS_SCHEMA } from "../core/status.ts";
import { KvmnatdError } from "../errors.ts";
import { identifyProcess } from "./processes.ts";
import { errnoOf } from "./run-command.ts";

const NAME = "status.json";

/** systemd names the folder; by hand it is where systemd would have put it. Several folders are separated by colons. */
export function runtimeFolder(env: NodeJS.ProcessEnv): string {
  return env["RUNTIME_DIRECTORY"]?.split(":")[0] || "/run/kvmnatd";
}

/** Replaces the file in one step: a reader sees the old or the new state, never half of one. */
export async function writeStatus(folder: string, status: DaemonStatus): Promise<void> {
  const file = join(folder, NAME);
  try {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    await writeFile(`${file}.new`, `${toJson(status)}\n`, { mode: 0o644 });
    await rename(`${file}.new`, file);
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    const message = `${file} cannot be written (${code}); forwards work, but \`kvmnatd status\` is out of date`;
    throw new KvmnatdError("status-file", message, { cause: error });
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

/** @returns the status of a daemon that runs; undefined where none does */
export async function readLiveStatus(folder: string): Promise<DaemonStatus | undefined> {
  const status = await readStatus(folder);
  const alive = status === undefined ? undefined : await identifyProcess(status.pid);
  return alive?.startTicks === status?.startTicks ? status : undefined;
}
