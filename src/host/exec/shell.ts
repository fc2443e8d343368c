import type { ChildProcess } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { errnoOf } from "../../errors.ts";
import { programs } from "./programs.ts";

/** A shell that does what is written to it, until it is killed or this process ends. */
export interface ShellProcess {
  write(script: string): void;
  /** Open files of it that lead here, by their numbers. */
  readonly outputs: readonly { readonly fd: number; readonly stream: Readable }[];
  /** It, and all that it has started. */
  kill(): void;
  /** Why it has ended. What it has started may still run, and its outputs stay open until then. */
  readonly ended: Promise<string>;
}

/** @param count of its outputs */
export function startShell(count: number): ShellProcess {
  const fds = Array.from({ length: count }, (_, index) => 3 + index);
  const shell = programs()("sh", ["-s", "kvmnatd"], {
    stdio: ["pipe", "ignore", "pipe", ...fds.map(() => "pipe" as const)],
    buffer: false,
    reject: false,
    // The head of a group, to be killed with all that it has started.
    detached: true,
  });
  const streams: readonly (Readable | Writable | null)[] = shell.stdio;
  // Whatever is wrong with one of its files, it ends by that, and says so.
  for (const stream of streams) stream?.on("error", () => undefined);
  let complaint = "";
  shell.stderr?.on("data", (chunk: Buffer) => {
    complaint = String(chunk).trim().split("\n").at(-1) ?? "";
    // bash would try for a quarter of a minute, and do nothing else meanwhile.
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
    // It has ended by itself.
    if (errnoOf(error) === undefined) throw error;
  }
}
