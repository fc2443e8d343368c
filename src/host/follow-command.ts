import { setTimeout } from "node:timers/promises";
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
  /** The program runs from now on, or has ended. */
  readonly onState: (runs: boolean, followed?: Followed) => void;
}

/** A program that has not been told that we have ended would stay. util-linux can do so since 2.33. */
const DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"];
let canDieWithUs: Promise<boolean> | undefined;

/** Hands on each line of a program that never ends by itself; it is started again when it does, until the signal. */
export async function followForEver(
  argv: readonly string[],
  follower: Follower,
  signal: AbortSignal,
): Promise<void> {
  canDieWithUs ??= runCommand([...DIES_WITH_US, "true"]).then(
    () => true,
    () => false,
  );
  const diesWithUs = await canDieWithUs;
  while (!signal.aborted) {
    await followCommand(argv, diesWithUs, follower, signal);
    follower.onState(false);
    // It was killed or is missing: not in a circle.
    await setTimeout(RESTART_MS, undefined, { signal, ref: false }).catch(() => undefined);
  }
}

async function followCommand(
  argv: readonly string[],
  diesWithUs: boolean,
  { onLine, onState }: Follower,
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
  // Stopped, it would not hear that it is to end.
  const goOn = (): void => void running.kill("SIGCONT");
  signal.addEventListener("abort", goOn);
  if (pid !== undefined) onState(true, { pid, diesWithUs, send: (name) => void running.kill(name) });
  try {
    for await (const line of running) onLine(line);
    await running;
  } catch (error) {
    // How it ended is all the same: it is started again.
    if (!(error instanceof ExecaError)) throw error;
  } finally {
    signal.removeEventListener("abort", goOn);
  }
}
