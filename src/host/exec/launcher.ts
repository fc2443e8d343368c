import { CommandError } from "../../errors.ts";
import { findProgram } from "./programs.ts";
import { commandError, runCommand, TIMEOUT_MS } from "./run-command.ts";
import type { CommandOptions, CommandOutput } from "./run-command.ts";
import { createShellPool } from "./shell-pool.ts";
import type { ShellPool } from "./shell-pool.ts";
import { startShell } from "./shell.ts";

/*
 * Runs the programs of a pass through one small shell that stays open.
 *
 * Node 24 (libuv 1.52) starts a program by `clone` without CLONE_VFORK: the kernel copies the page tables of the whole
 * process, and the event loop stands still meanwhile. That takes 2 ms at 50 MB of resident memory and 12 ms at 190 MB.
 * A pass runs several programs and must take no longer than twice the bare commands. The shell is small and starts a
 * program in 0.1 ms. Each program writes to one of the shell's open files. When it has ended, the shell appends
 * `\0EXIT-CODE\0STANDARD-ERROR\0` there; none of these programs prints a zero byte.
 */

/** Maximum number of programs at the same time: dash addresses open files by one digit. */
const MAX_PARALLEL = 7;
/**
 * Input that may become part of the shell's script. Not every shell reads every byte unchanged, and bash reads them one
 * by one; a longer text would need a file or another process.
 */
const SAFE_INPUT = /^[\t\n\u0020-\u007e]{0,4096}$/;

type LaunchOptions = Pick<CommandOptions, "input" | "timeoutMs">;

export interface Launcher {
  /**
   * As {@link runCommand}, but cheaper. A program that exceeds its timeout is killed together with all programs that
   * run beside it.
   * @throws CommandError when the program is missing, fails or exceeds the timeout
   */
  run(argv: readonly string[], options?: LaunchOptions): Promise<CommandOutput>;
  /**
   * Runs a program that only reads. One that fails is run once more: the kernel's lists may change while it reads them.
   * @returns its standard output
   * @throws CommandError as `run`
   */
  read(argv: readonly string[]): Promise<string>;
}

/** The shell is started by the first program, and again after it has ended. */
export function createLauncher(): Launcher {
  let current: ShellPool | undefined;

  function startPool(): ShellPool {
    const own = createShellPool(startShell(MAX_PARALLEL), () => {
      if (current === own) current = undefined;
    });
    return own;
  }

  async function run(argv: readonly string[], options: LaunchOptions = {}): Promise<CommandOutput> {
    const { input, timeoutMs = TIMEOUT_MS } = options;
    if (!SAFE_INPUT.test(argv.join(" ")) || !SAFE_INPUT.test(input ?? "")) return runCommand(argv, options);
    current ??= startPool();
    const outcome = await current.launch(argv, input, timeoutMs);
    if (outcome === undefined) return runCommand(argv, options);
    if (outcome === "late") throw commandError(argv, { lateMs: timeoutMs, stderr: "" });
    if ("lost" in outcome) throw commandError(argv, { ended: outcome.lost, stderr: "" });
    const { exitCode, stdout, stderr } = outcome;
    if (exitCode === 127 && (await findProgram(argv[0] ?? "")) === undefined)
      throw commandError(argv, { isMissing: true, stderr: "" });
    if (exitCode !== 0) throw commandError(argv, explainExit(exitCode, stderr));
    return { stdout, stderr };
  }

  async function read(argv: readonly string[]): Promise<string> {
    try {
      return (await run(argv)).stdout;
    } catch (error) {
      if (!(error instanceof CommandError) || error.exitCode === undefined) throw error;
      return (await run(argv)).stdout;
    }
  }

  return { run, read };
}

/** What dash and bash put before their own messages. */
const SHELL_PREFIX = /^sh: (?:line )?\d+: /gm;

/** A shell's exit code also stands for a program that could not be started, or that a signal ended. */
function explainExit(exitCode: number, complaint: string): Parameters<typeof commandError>[1] {
  const stderr = exitCode === 126 || exitCode === 127 ? complaint.replaceAll(SHELL_PREFIX, "") : complaint;
  const signal = exitCode - 128;
  if (signal > 0 && signal < 32) return { ended: `ended by signal ${signal}`, stderr };
  return { exitCode, stderr };
}
