import { randomUUID } from "node:crypto";
import { CommandError } from "../../errors.ts";
import { findProgram } from "./programs.ts";
import { commandError, runCommand, TIMEOUT_MS } from "./run-command.ts";
import { startShell } from "./shell.ts";
import type { CommandOptions, CommandOutput } from "./run-command.ts";
import type { ShellProcess } from "./shell.ts";

/*
 * Node starts a program by a copy of itself, and it is big: 2 ms at 50 MB, 12 ms at 190 MB, in which nothing else is done.
 * A small shell that stays beside it starts one in a tenth of a millisecond. Each prints to one of the shell's open
 * files, and then the shell does: `\0EXIT-CODE\0STANDARD-ERROR\0`. Nothing that we run prints a zero byte.
 */

/** In bytes; a hundred thousand rules are 10 MB. */
const MAX_OUTPUT = 256_000_000;
/** How many may run at the same time: dash knows open files by one digit. */
const MAX_PARALLEL = 7;
/**
 * What goes into the shell's script: not every shell reads every byte as it is, and bash reads them one by one; a longer
 * text would need a file or a process more.
 */
const SAFE_INPUT = /^[\t\n\u0020-\u007e]{0,4096}$/;
/** At its own end the shell ends what it has started; told to end, as all processes of a service are, it stays: there may be rules to remove. */
const SHELL_PROLOGUE = "trap : TERM; trap 'kill 0' EXIT\n";

type LaunchOptions = Pick<CommandOptions, "input" | "timeoutMs">;

type Output = ShellProcess["outputs"][number];

interface Ended extends CommandOutput {
  readonly exitCode: number;
}

/** It ended, or took too long and was stopped, or nobody knows, because the shell has ended. */
type Outcome = Ended | "late" | { readonly lost: string };

interface Launcher {
  /** @returns undefined when as many run as can */
  launch(argv: readonly string[], input: string | undefined, timeoutMs: number): Promise<Outcome> | undefined;
}

let launcher: Launcher | undefined;

/**
 * As {@link runCommand}, for what is run in every pass. What takes longer than the timeout is killed, and with it all that
 * runs beside it.
 */
export async function launchCommand(
  argv: readonly string[],
  options: LaunchOptions = {},
): Promise<CommandOutput> {
  const { input, timeoutMs = TIMEOUT_MS } = options;
  if (!SAFE_INPUT.test(argv.join(" ")) || !SAFE_INPUT.test(input ?? "")) return runCommand(argv, options);
  launcher ??= startLauncher();
  const outcome = await launcher.launch(argv, input, timeoutMs);
  if (outcome === undefined) return runCommand(argv, options);
  if (outcome === "late") throw commandError(argv, { lateMs: timeoutMs, stderr: "" });
  if ("lost" in outcome) throw commandError(argv, { ended: outcome.lost, stderr: "" });
  const { exitCode, stdout, stderr } = outcome;
  if (exitCode === 127 && (await findProgram(argv[0] ?? "")) === undefined)
    throw commandError(argv, { isMissing: true, stderr: "" });
  if (exitCode !== 0) throw commandError(argv, explainExit(exitCode, stderr));
  return { stdout, stderr };
}

function startLauncher(): Launcher {
  const own = createLauncher(startShell(MAX_PARALLEL), () => {
    if (launcher === own) launcher = undefined;
  });
  return own;
}

/** What a program prints that only reads. One that fails is asked once more: the kernel's lists change under its hands. */
export async function readCommand(argv: readonly string[]): Promise<string> {
  try {
    return (await launchCommand(argv)).stdout;
  } catch (error) {
    if (!(error instanceof CommandError) || error.exitCode === undefined) throw error;
    return (await launchCommand(argv)).stdout;
  }
}

/** So dash and bash say what they have to say of a program. */
const SHELL_SAYS = /^sh: (?:line )?\d+: /gm;

/** So a shell says that it could not start a program, or that a signal ended it. */
function explainExit(exitCode: number, said: string): Parameters<typeof commandError>[1] {
  const stderr = exitCode === 126 || exitCode === 127 ? said.replaceAll(SHELL_SAYS, "") : said;
  const signal = exitCode - 128;
  if (signal > 0 && signal < 32) return { ended: `ended by signal ${signal}`, stderr };
  return { exitCode, stderr };
}

/** @param onEnd called when it can launch nothing more */
function createLauncher(shell: ShellProcess, onEnd: () => void): Launcher {
  const slots = shell.outputs.map((output) => createSlot(shell, output, shell.outputs));
  let running = 0;
  shell.write(SHELL_PROLOGUE);
  void shell.ended.then(onEnd);
  return {
    launch: (argv, input, timeoutMs) => {
      const slot = slots.find((each) => !each.isTaken());
      if (slot === undefined) return undefined;
      running += 1;
      const late = setTimeout(() => {
        onEnd();
        slot.settle("late");
        const lost = `stopped together with ${argv.join(" ")}, which did not end within ${timeoutMs / 1000} s`;
        for (const each of slots) each.settle({ lost });
        shell.kill();
      }, timeoutMs);
      return slot.take(argv, input).finally(() => {
        clearTimeout(late);
        running -= 1;
        // It remembers those that have ended until it is asked.
        if (running === 0) shell.write("wait\n");
      });
    },
  };
}

/** Where one program after the other runs. */
interface Slot {
  isTaken(): boolean;
  take(argv: readonly string[], input: string | undefined): Promise<Outcome>;
  settle(outcome: Outcome): void;
}

function createSlot(shell: ShellProcess, { fd, stream }: Output, all: readonly Output[]): Slot {
  // Or they would stay open for as long as this one's program runs.
  const others = all.filter((each) => each.fd !== fd).map((each) => each.fd);
  let resolve: ((outcome: Outcome) => void) | undefined;
  // Put together only once: it may be much.
  let chunks: Buffer[] = [];
  const settle = (outcome: Outcome): void => {
    resolve?.(outcome);
    resolve = undefined;
    chunks = [];
  };
  let size = 0;
  stream.on("data", (chunk: Buffer) => {
    size = chunks.length === 0 ? chunk.length : size + chunk.length;
    if (size > MAX_OUTPUT) {
      settle({ lost: `printed more than ${MAX_OUTPUT / 1_000_000} MB and was stopped` });
      shell.kill();
      return;
    }
    chunks.push(chunk);
    const ended = chunk.at(-1) === 0 ? parseEnd(Buffer.concat(chunks)) : undefined;
    if (ended === undefined) return;
    if (ended === "garbled") shell.kill();
    settle(typeof ended === "string" ? { lost: NO_EXIT_CODE[ended] } : ended);
  });
  stream.on("close", () => {
    void shell.ended.then((why) => settle({ lost: `the shell that starts programs ended: ${why}` }));
  });
  return {
    isTaken: () => resolve !== undefined,
    take: (argv, input) => {
      const outcome = new Promise<Outcome>((done) => (resolve = done));
      shell.write(script(argv, input, fd, others));
      return outcome;
    },
    settle,
  };
}

const NO_EXIT_CODE = {
  unstarted: "could not be started, for no more processes can be made, or was ended together with its shell",
  garbled: "printed a zero byte, which is taken for its end",
};

/** @returns undefined while the end has not come */
function parseEnd(bytes: Buffer): Ended | keyof typeof NO_EXIT_CODE | undefined {
  const first = bytes.indexOf(0);
  const second = bytes.indexOf(0, first + 1);
  if (second === -1 || second === bytes.length - 1) return undefined;
  const code = bytes.toString("utf8", first + 1, second);
  if (code === "") return "unstarted";
  if (!/^\d{1,3}$/.test(code)) return "garbled";
  return {
    stdout: bytes.toString("utf8", 0, first),
    exitCode: Number(code),
    stderr: bytes.toString("utf8", second + 1, bytes.length - 1),
  };
}

/** Without a further process there is no exit code, but the end comes, as it does when the program is told to end. */
function script(
  argv: readonly string[],
  input: string | undefined,
  fd: number,
  others: readonly number[],
): string {
  const end = randomUUID();
  const text = input === undefined ? "" : `${input.endsWith("\n") ? input : `${input}\n`}${end}\n`;
  const from = input === undefined ? "</dev/null" : `<<'${end}'`;
  const last = `trap : TERM; trap 'printf "\\0%s\\0%s\\0" "$code" "$said" >&${fd}' EXIT`;
  const run = `said=$(${argv.map(quote).join(" ")} 2>&1 >&${fd} ${from}\n${text})`;
  const closed = others.map((each) => `${each}>&-`).join(" ");
  return `{ code= said=; ${last}; ${run}; code=$?; } ${closed} &\n`;
}

function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
