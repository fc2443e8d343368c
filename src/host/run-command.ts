import { access } from "node:fs/promises";
import type { ReadStream } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { execa, ExecaError } from "execa";
import { CommandError, KvmnatdError } from "../errors.ts";

export interface CommandOptions {
  readonly input?: string;
  /** After this the program gets SIGTERM and, a second later, SIGKILL. */
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** An open file of ours that the program gets as its standard input. */
  readonly stdin?: ReadStream;
}

export interface CommandOutput {
  readonly stdout: string;
  readonly stderr: string;
}

const TIMEOUT_MS = 20_000;

/** Debian package by program, for the message when one is missing. */
const PACKAGES: Readonly<Record<string, string>> = {
  ip: "iproute2",
  ss: "iproute2",
  nft: "nftables",
  conntrack: "conntrack (conntrack-tools on Fedora and its kin)",
};

/**
 * Runs a program to its end.
 * @throws CommandError when it is missing, fails or takes longer than the timeout
 */
export async function runCommand(
  argv: readonly string[],
  options: CommandOptions = {},
): Promise<CommandOutput> {
  const [file = "", ...args] = argv;
  const { input, timeoutMs = TIMEOUT_MS, env = {}, signal, stdin = "ignore" } = options;
  try {
    const { stdout, stderr } = await execa(file, args, {
      ...(input === undefined ? { stdin } : { input }),
      ...(signal === undefined ? {} : { cancelSignal: signal }),
      env: { ...env, ...commandEnv() },
      cwd: "/",
      timeout: timeoutMs,
      forceKillAfterDelay: 1000,
      stripFinalNewline: false,
      maxBuffer: 1_000_000_000,
    });
    return { stdout, stderr };
  } catch (error) {
    if (error instanceof ExecaError) throw toCommandError(error, argv, timeoutMs, input);
    throw error;
  }
}

const RESTART_MS = 5000;

/**
 * Runs programs that only read, at the same time, from one small shell: each start of a process by one of Node's size
 * costs 2 ms in which nothing else is done.
 * @returns what each printed; undefined when one failed (run alone, it tells why)
 */
export async function runTogether(
  argvs: readonly (readonly string[])[],
): Promise<readonly string[] | undefined> {
  let word = 1;
  const started = argvs.map((argv, index) => {
    const words = argv.map(() => `"$\{${word++}}"`);
    return `${words.join(" ")} >&${index + FIRST_FD} & p${index}=$!`;
  });
  const pids = argvs.map((_, index) => `$p${index}`);
  const script = [
    ...started,
    `trap "kill ${pids.join(" ")}" TERM`,
    ...pids.map((pid) => `wait ${pid} || exit`),
  ];
  try {
    const { stdio } = await execa("sh", ["-c", script.join("\n"), "sh", ...argvs.flat()], {
      stdio: ["ignore", "ignore", "ignore", ...argvs.map(() => "pipe" as const)],
      env: commandEnv(),
      cwd: "/",
      timeout: TIMEOUT_MS,
      forceKillAfterDelay: 1000,
      stripFinalNewline: false,
      maxBuffer: 1_000_000_000,
    });
    return argvs.map((_, index) => String(stdio[index + FIRST_FD]));
  } catch (error) {
    if (error instanceof ExecaError) return undefined;
    throw error;
  }
}

const FIRST_FD = 3;

export interface Follower {
  readonly onLine: (line: string) => void;
  /** The program runs from now on, as this process, or has ended. */
  readonly onState: (runs: boolean, pid?: number) => void;
}

/** Hands on each line of a program that never ends by itself; it is started again when it does, until the signal. */
export async function followForEver(
  argv: readonly string[],
  follower: Follower,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await followCommand(argv, follower, signal);
    follower.onState(false);
    // It was killed or is missing: not in a circle.
    await setTimeout(RESTART_MS, undefined, { signal, ref: false }).catch(() => undefined);
  }
}

async function followCommand(
  argv: readonly string[],
  { onLine, onState }: Follower,
  signal: AbortSignal,
): Promise<void> {
  const [file = "", ...args] = argv;
  const running = execa(file, args, {
    stdin: "ignore",
    stderr: "ignore",
    buffer: false,
    reject: false,
    env: commandEnv(),
    cwd: "/",
    cancelSignal: signal,
  });
  if (running.pid !== undefined) onState(true, running.pid);
  try {
    for await (const line of running) onLine(line);
    await running;
  } catch (error) {
    // How it ended is all the same: it is started again.
    if (!(error instanceof ExecaError)) throw error;
  }
}

/** Where programs are looked for; a user's PATH may lack sbin. */
export function programFolders(): readonly string[] {
  const path = (process.env["PATH"] ?? "").split(":");
  return [...path.filter((folder) => folder !== ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
}

/** @returns the program's file; undefined where it is not installed */
export async function findProgram(name: string): Promise<string | undefined> {
  for (const folder of programFolders()) {
    try {
      await access(`${folder}/${name}`);
      return `${folder}/${name}`;
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
    }
  }
  return undefined;
}

/** C messages, because we read them. (The programs run in `/`: the folder that we were started in may be gone.) */
function commandEnv(): Record<string, string> {
  return { LC_ALL: "C", PATH: programFolders().join(":") };
}

function toCommandError(
  error: ExecaError,
  argv: readonly string[],
  timeoutMs: number,
  input: string | undefined,
): CommandError {
  const stderr = typeof error.stderr === "string" ? error.stderr.trim() : "";
  const isMissing = error.code === "ENOENT";
  const details = { argv, exitCode: error.exitCode, isMissing, stderr, input, cause: error };
  return new CommandError(`${argv.join(" ")}: ${explain(error, argv[0] ?? "", timeoutMs, stderr)}`, details);
}

function explain(error: ExecaError, program: string, timeoutMs: number, stderr: string): string {
  if (error.code === "ENOENT") {
    const name = PACKAGES[program] ?? (/^ip6?tables/.test(program) ? "iptables" : program);
    return `not found; install the package ${name}`;
  }
  if (error.timedOut) return `did not end within ${timeoutMs / 1000} s and was stopped`;
  const first = stderr.split("\n").slice(0, 3).join("; ");
  const rights = /permission denied|operation not permitted|must be root/i.test(stderr);
  const ended = error.exitCode === undefined ? error.shortMessage : `exit code ${error.exitCode}`;
  return `${first === "" ? "no message" : first} (${ended})${rights ? "; kvmnatd needs root or CAP_NET_ADMIN" : ""}`;
}

/** A system call's error code, e.g. `ENOENT`; undefined for anything else. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error &&
    "code" in error &&
    typeof error.code === "string" &&
    !(error instanceof KvmnatdError)
    ? error.code
    : undefined;
}
