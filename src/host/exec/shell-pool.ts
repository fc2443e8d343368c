import { randomUUID } from "node:crypto";
import type { CommandOutput } from "./run-command.ts";
import type { ShellProcess } from "./shell.ts";

/** Maximum output of a program, in bytes; a hundred thousand rules are 10 MB. */
const MAX_OUTPUT = 256_000_000;
/** The shell kills its children when it exits. It ignores SIGTERM, which systemd sends to every process of the service, because kvmnatd may still have to remove rules. */
const SHELL_PROLOGUE = "trap : TERM; trap 'kill 0' EXIT\n";

type Output = ShellProcess["outputs"][number];

interface Ended extends CommandOutput {
  readonly exitCode: number;
}

/** The program ended; or it exceeded its timeout and was killed; or its end is unknown, because the shell ended. */
type LaunchOutcome = Ended | "late" | { readonly lost: string };

/** Programs that a shell runs in parallel, one per output of the shell. */
export interface ShellPool {
  /** @returns undefined when every output is in use */
  launch(
    argv: readonly string[],
    input: string | undefined,
    timeoutMs: number,
  ): Promise<LaunchOutcome> | undefined;
}

/** @param onEnd called when the shell can start no further program */
export function createShellPool(shell: ShellProcess, onEnd: () => void): ShellPool {
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
        // Without this the shell keeps a zombie per program.
        if (running === 0) shell.write("wait\n");
      });
    },
  };
}

/** One output of the shell; it runs one program at a time. */
interface Slot {
  isTaken(): boolean;
  take(argv: readonly string[], input: string | undefined): Promise<LaunchOutcome>;
  settle(outcome: LaunchOutcome): void;
}

function createSlot(shell: ShellProcess, { fd, stream }: Output, all: readonly Output[]): Slot {
  // The program must not inherit the other outputs: they would stay open while it runs.
  const others = all.filter((each) => each.fd !== fd).map((each) => each.fd);
  let resolve: ((outcome: LaunchOutcome) => void) | undefined;
  // Joined once, at the end: the output may be large.
  let chunks: Buffer[] = [];
  const settle = (outcome: LaunchOutcome): void => {
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
      const outcome = new Promise<LaunchOutcome>((done) => (resolve = done));
      shell.write(script(argv, input, fd, others));
      return outcome;
    },
    settle,
  };
}

const NO_EXIT_CODE = {
  unstarted:
    "could not be started because no more processes can be made, or was ended together with its shell",
  garbled: "printed a zero byte, which marks the end of its output",
};

/** @returns undefined while the end of the output is incomplete */
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

/** The EXIT trap reports the end even if the program could not be started or the subshell was terminated. */
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
