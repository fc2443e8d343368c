import { access } from "node:fs/promises";
import { execa } from "execa";
import type { ExecaMethod } from "execa";
import { errnoOf } from "../../errors.ts";

export { ExecaError } from "execa";

/**
 * `execa` with the settings of every program that kvmnatd starts: messages in the C locale, because kvmnatd parses
 * them, and `/` as the working directory, because the one of kvmnatd's start may be gone.
 */
export function programs(env: Readonly<Record<string, string>> = {}): ExecaMethod<{ readonly cwd: "/" }> {
  return execa({ env: { ...env, LC_ALL: "C", PATH: programFolders().join(":") }, cwd: "/" });
}

/** Folders that are searched for programs; a user's PATH may lack sbin. */
export function programFolders(): readonly string[] {
  const path = (process.env["PATH"] ?? "").split(":");
  return [...path.filter((folder) => folder !== ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
}

/** @returns the program's file; undefined when it is not installed */
export async function findProgram(name: string): Promise<string | undefined> {
  for (const folder of name.startsWith("/") ? [""] : programFolders()) {
    try {
      await access(`${folder}/${name}`);
      return `${folder}/${name}`;
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
    }
  }
  return undefined;
}
