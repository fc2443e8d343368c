import { setTimeout } from "node:timers/promises";
import { CommandError } from "../../errors.ts";
import { ExecaError, programs } from "./programs.ts";
import { runCommand } from "./run-command.ts";

const RESTART_MS = 5000;

/** A program that is being followed. */
export interface Followed {
  readonly pid: number;
  /** Whether the kernel ends it with us, whatever ends us. */
  readonly diesWithUs: boolean;
  send(signal: "SIGSTOP" | "SIGCONT"): void;
}

export interface Follower {
  readonly onLine: (line: string) => void;
  /** The program runs from now on, until the signal. */
  readonly onRun: (followed: Followed, ended: AbortSignal) => Promise<void>;
  readonly onEnd: () => void;
}

/** A program that has not been told that we have ended would stay. util-linux can do so since 2.33. */
const DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"];
let canDieWithUs: boolean | undefined;

/**
 * Hands on each line of a program that never ends by itself; it is started again when it does, until the signal.
 * @throws what a follower throws
 */
export async function followCommand(
  argv: readonly string[],
  follower: Follower,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    canDieWithUs ??= await probe();
    await followOnce(argv, canDieWithUs === true, follower, signal);
    follower.onEnd();
    // It was killed or is missing: not in a circle.
    await setTimeout(RESTART_MS, undefined, { signal, ref: false }).catch(() => undefined);
  }
}

/** @returns undefined where it could not be found out */
async function probe(): Promise<boolean | undefined> {
  try {
    await runCommand([...DIES_WITH_US, "true"]);
    return true;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    return error.isMissing || error.exitCode !== undefined ? false : undefined;
  }
}

async function followOnce(
  argv: readonly string[],
  diesWithUs: boolean,
  { onLine, onRun }: Follower,
  signal: AbortSignal,
): Promise<void> {
  const [file = "", ...args] = diesWithUs ? [...DIES_WITH_US, ...argv] : argv;
  const running = programs()(file, args, {
    stdin: "ignore",
    stderr: "ignore",
    buffer: false,
    reject: false,
    cancelSignal: signal,
  });
  const { pid } = running;
  const send = (name: "SIGSTOP" | "SIGCONT"): void => void running.kill(name);
  // Stopped, it would not hear that it is to end.
  const goOn = (): void => send("SIGCONT");
  signal.addEventListener("abort", goOn);
  const end = new AbortController();
  let bug: { readonly error: unknown } | undefined;
  const onRunning = (
    pid === undefined ? Promise.resolve() : onRun({ pid, diesWithUs, send }, end.signal)
  ).catch((error: unknown) => {
    bug = { error };
    running.kill("SIGKILL");
  });
  try {
    for await (const line of running) onLine(line);
    await running;
  } catch (error) {
    // How it ended is all the same: it is started again.
    if (!(error instanceof ExecaError)) throw error;
  } finally {
    signal.removeEventListener("abort", goOn);
    end.abort();
    await onRunning;
  }
  if (bug !== undefined) throw bug.error;
}
