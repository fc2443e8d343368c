import { setTimeout } from "node:timers/promises";
import { CommandError } from "../../errors.ts";
import { ExecaError, programs } from "./programs.ts";
import { runCommand } from "./run-command.ts";

/** Interval between the end of a followed program and its restart. */
const RESTART_MS = 5000;
/** Interval between signals that resume a program that another program has stopped. */
const RESUME_MS = 5000;

export interface Follower {
  readonly onLine: (line: string) => void;
  /** The program runs from now on, until the signal. */
  readonly onRun: (pid: number, ended: AbortSignal) => Promise<void>;
  readonly onEnd: () => void;
}

/** Without this a monitor would outlive a kvmnatd that is killed. util-linux supports it since 2.33. */
const DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"];

/**
 * Passes on each line of a program that does not end by itself; restarts it when it ends, until the signal.
 * @throws what a follower throws
 */
export type FollowCommand = (
  argv: readonly string[],
  follower: Follower,
  signal: AbortSignal,
) => Promise<void>;

/** The result finds out once whether setpriv can be used. */
export function createFollowCommand(): FollowCommand {
  let canDieWithUs: boolean | undefined;
  return async (argv, follower, signal) => {
    while (!signal.aborted) {
      canDieWithUs ??= await canUseSetpriv();
      await followOnce(canDieWithUs === true ? [...DIES_WITH_US, ...argv] : argv, follower, signal);
      follower.onEnd();
      // The program was killed or is missing: no busy loop.
      await setTimeout(RESTART_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  };
}

/** @returns undefined when the attempt failed for another reason, such as too many processes */
async function canUseSetpriv(): Promise<boolean | undefined> {
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
  { onLine, onRun }: Follower,
  signal: AbortSignal,
): Promise<void> {
  const [file = "", ...args] = argv;
  const running = programs()(file, args, {
    stdin: "ignore",
    stderr: "ignore",
    buffer: false,
    reject: false,
    cancelSignal: signal,
    // A stopped program would not receive SIGTERM.
    killSignal: "SIGKILL",
  });
  const resume = setInterval(() => running.kill("SIGCONT"), RESUME_MS).unref();
  const end = new AbortController();
  let bug: { readonly error: unknown } | undefined;
  const { pid } = running;
  const onRunning = (pid === undefined ? Promise.resolve() : onRun(pid, end.signal)).catch(
    (error: unknown) => {
      bug = { error };
      running.kill("SIGKILL");
    },
  );
  try {
    for await (const line of running) onLine(line);
    await running;
  } catch (error) {
    // It is restarted, however it ended.
    if (!(error instanceof ExecaError)) throw error;
  } finally {
    clearInterval(resume);
    end.abort();
    await onRunning;
  }
  if (bug !== undefined) throw bug.error;
}
