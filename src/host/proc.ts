import { readFile } from "node:fs/promises";
import { KvmnatdError } from "../errors.ts";
import { errnoOf } from "./run-command.ts";

/**
 * A file of the kernel's.
 * @returns undefined where there is none: a link has gone, or the kernel lacks the part that it is of
 * @throws KvmnatdError when it cannot be read: no more files can be opened, or the sandbox refuses
 */
export async function readProc(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    if (code === "ENOENT") return undefined;
    const hint = HINTS[code] ?? "see whether /proc is mounted and kvmnatd's sandbox lets it be read";
    throw new KvmnatdError("proc", `${file} cannot be read (${code}); ${hint}`, { cause: error });
  }
}

const HINTS: Readonly<Record<string, string>> = {
  EMFILE: "kvmnatd has too many files open; raise LimitNOFILE= in its unit",
  ENFILE: "the host has too many files open; raise the sysctl fs.file-max",
};
