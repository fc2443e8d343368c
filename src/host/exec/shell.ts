import type { ChildProcess } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { errnoOf } from "../../errors.ts";
import { programs } from "./programs.ts";

/** A shell that runs the scripts written to it, until it is killed or this process ends. */
export interface ShellProcess {
  write(script: string): void;
  /** Its open files that this process reads, by their numbers in the shell. */
  readonly outputs: readonly { readonly fd: number; readonly stream: Readable }[];
  /** Kills it and all programs that it has started. */
  kill(): void;
  /** Resolves with the reason of its end. Its programs may still run and keep its outputs open. */
  readonly ended: Promise<string>;
}

/** @param count number of outputs */
export function startShell(count: number): ShellProcess {
  const fds = Array.from({ length: count }, (_, index) => 3 + index);
  const shell = programs()("sh", ["-s", "kvmnatd"], {
    stdio: ["pipe", "ignore", "pipe", ...fds.map(() => "pipe" as const)],
    buffer: false,
    reject: false,
    // The leader of a process group, which is killed as a whole.
    detached: true,
  });
  const streams: readonly (Readable | Writable | null)[] = shell.stdio;
  // A failing file ends the shell, which `ended` reports.
  for (const stream of streams) stream?.on("error", () => undefined);
  let complaint = "";
  shell.stderr?.on("data", (chunk: Buffer) => {
    complaint = String(chunk).trim().split("\n").at(-1) ?? "";
    // bash would retry for 15 s, and do nothing else meanwhile.
    if (complaint.includes("fork: retry")) killGroup(shell.pid);
  });
  return {
    write: (script) => {
      complaint = "";
      shell.stdin?.write(script);
    },
    outputs: fds.map((fd) => ({ fd, stream: streams[fd] as Readable })),
    kill: () => killGroup(shell.pid),
    ended: Promise.race([hasExited(shell.nodeChildProcess), shell.then((how) => how.originalMessage)]).then(
      (how) => [how ?? "no message", ...(complaint === "" ? [] : [complaint])].join(": "),
    ),
  };
}

function hasExited(child: ChildProcess): Promise<string> {
  return new Promise((done) => {
    child.once("exit", (code, signal) => done(signal === null ? `exit code ${code}` : `killed by ${signal}`));
  });
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    // It has already ended.
    if (errnoOf(error) === undefined) throw error;
  }
}
