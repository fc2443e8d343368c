import { readFileSync } from "node:fs";
import { errnoOf, KvmnatdError } from "../../errors.ts";

/**
 * Reads a file of the kernel synchronously: it needs no disk, and Node's thread pool costs more than the read.
 * @returns undefined when it does not exist: a link or a process has gone, or the kernel lacks the feature
 * @throws KvmnatdError when it cannot be read: no more files can be opened, or the sandbox refuses
 */
export function readProc(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    // ESRCH: a process that ended while it was read.
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    const hint = HINTS[code] ?? "see whether /proc is mounted and kvmnatd's sandbox lets it be read";
    throw new KvmnatdError("proc-unreadable", `${file} cannot be read (${code}); ${hint}`, { cause: error });
  }
}

export interface ProcessStat {
  readonly pid: number;
  /** Start of the process, in ticks since the host's boot. */
  readonly startTicks: string;
}

/** Reads /proc/PID/stat, proc(5). @returns undefined when there is no such process, or it cannot be read */
export function readStat(pid: number | "self"): ProcessStat | undefined {
  try {
    const stat = readProc(`/proc/${pid}/stat`);
    if (stat === undefined) return undefined;
    // The name, second field, may hold blanks and parentheses: count from its end.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { pid: Number.parseInt(stat, 10), startTicks: fields[19] ?? "" };
  } catch (error) {
    if (error instanceof KvmnatdError) return undefined;
    throw error;
  }
}

const HINTS: Readonly<Record<string, string>> = {
  EMFILE: "kvmnatd has too many files open; raise LimitNOFILE= in its unit",
  ENFILE: "the host has too many files open; raise the sysctl fs.file-max",
};
