import { sysctlName } from "../../rules/sysctl-name.ts";
import { writeFile } from "node:fs/promises";
import { errnoOf, KvmnatdError } from "../../errors.ts";
import { readProc } from "./proc.ts";

/**
 * Reads a sysctl by its path below /proc/sys, e.g. `net/ipv4/ip_forward`.
 * @returns undefined when it does not exist: the interface has gone, or the kernel has no IPv6
 * @throws KvmnatdError when it cannot be read
 */
export async function readSysctl(path: string): Promise<string | undefined> {
  return readProc(`/proc/sys/${path}`)?.trim();
}

/** @throws KvmnatdError when the kernel or the sandbox refuses */
export async function writeSysctl(path: string, value: string): Promise<void> {
  try {
    await writeFile(`/proc/sys/${path}`, value);
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    const name = sysctlName(path);
    throw new KvmnatdError(
      "sysctl-failed",
      `${name} cannot be set to ${value} (${code}); run \`sysctl -w ${name}=${value}\``,
      {
        cause: error,
      },
    );
  }
}
