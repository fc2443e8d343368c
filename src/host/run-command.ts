import type { ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import type { ReadStream } from "node:fs";
import type { Readable, Writable } from "node:stream";
import { access } from "node:fs/promises";
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

/** What takes longer hangs. */
export const TIMEOUT_MS = 20_000;

/** Debian package by program, for the message when one is missing. */
const PACKAGES: Readonly<Record<string, string>> = {
  ip: "iproute2",
  ss: "iproute2",
  nft: "nftables",
  journalctl: "systemd",
  "systemd-analyze": "systemd",
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
    if (error instanceof ExecaError) throw commandError(argv, failureOf(error, timeoutMs), input);
    throw error;
  }
}

/**
 * Hands on each line of a program that may print more than there is memory for.
 * @returns what it wrote to standard error
 * @throws CommandError when it is missing or fails
 */
export async function readLines(argv: readonly string[], onLine: (line: string) => void): Promise<string> {
  const [file = "", ...args] = argv;
  const running = execa(file, args, {
    stdin: "ignore",
    buffer: { stdout: false, stderr: true },
    env: commandEnv(),
    cwd: "/",
  });
  try {
    for await (const line of running) onLine(line);
    return (await running).stderr;
  } catch (error) {
    if (error instanceof ExecaError) throw commandError(argv, failureOf(error, 0));
    throw error;
  }
}

const RESTART_MS = 5000;

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
  const shell = execa("sh", ["-s", "kvmnatd"], {
    stdio: ["pipe", "ignore", "pipe", ...fds.map(() => "pipe" as const)],
    buffer: false,
    reject: false,
    // The head of a group, to be killed with all that it has started.
    detached: true,
    env: commandEnv(),
    cwd: "/",
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
  const running = execa(file, args, {
    stdin: "ignore",
    stderr: "ignore",
    buffer: false,
    reject: false,
    env: commandEnv(),
    cwd: "/",
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

/** Where programs are looked for; a user's PATH may lack sbin. */
export function programFolders(): readonly string[] {
  const path = (process.env["PATH"] ?? "").split(":");
  return [...path.filter((folder) => folder !== ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
}

/** @returns the program's file; undefined where it is not installed */
export async function findProgram(name: string): Promise<string | undefined> {
  for (const folder of name.startsWith("/") ? [""] : programFolders()) {
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

/** How a program failed: one of these, and what it said. */
interface Failure {
  readonly isMissing?: boolean;
  /** Stopped after so long. */
  readonly lateMs?: number;
  readonly exitCode?: number | undefined;
  /** How else it ended. */
  readonly ended?: string;
  readonly stderr: string;
  readonly cause?: unknown;
}

/** @param input what the program was to read */
export function commandError(argv: readonly string[], failure: Failure, input?: string): CommandError {
  const stderr = failure.stderr.trim();
  const { exitCode, isMissing = false, cause } = failure;
  const details = { argv, exitCode, isMissing, stderr, input, cause };
  return new CommandError(`${argv.join(" ")}: ${explain(argv[0] ?? "", failure, stderr)}`, details);
}

function failureOf(error: ExecaError, timeoutMs: number): Failure {
  const stderr = typeof error.stderr === "string" ? error.stderr : "";
  const { exitCode, shortMessage } = error;
  if (error.code === "ENOENT") return { isMissing: true, stderr, cause: error };
  if (error.timedOut) return { lateMs: timeoutMs, exitCode, stderr, cause: error };
  return { exitCode, ended: shortMessage, stderr, cause: error };
}

function explain(program: string, failure: Failure, stderr: string): string {
  const { isMissing, lateMs, exitCode, ended = "no message" } = failure;
  if (isMissing === true) {
    const name = PACKAGES[program] ?? (/^ip6?tables/.test(program) ? "iptables" : program);
    return `not found; install the package ${name}`;
  }
  if (lateMs !== undefined) return `did not end within ${lateMs / 1000} s and was stopped`;
  const first = stderr.split("\n").slice(0, 3).join("; ");
  const said = first === "" ? "no message" : first;
  if (exitCode !== undefined) return `${said} (exit code ${exitCode})${missingRight(stderr)}`;
  return `${first === "" ? ended : `${first} (${ended})`}${missingRight(stderr)}`;
}

/** Of what the programs need; by its number in Linux's capability.h. */
const CAPABILITIES = { CAP_NET_ADMIN: 12, CAP_NET_RAW: 13 };

/** Who lacks a right is told in words that differ from program to program, or not at all (iproute2 under systemd's filters). */
function missingRight(stderr: string): string {
  const missing = missingCapabilities();
  if (missing.length === 0) return "";
  const isRefused = /permission denied|operation not permitted|must be root/i.test(stderr);
  // CAP_NET_RAW alone is for iptables-legacy, which says that it was refused.
  if (!isRefused && missing.every((name) => name === "CAP_NET_RAW")) return "";
  const names = missing.join(" and ");
  return `; kvmnatd needs root or ${names}; of a service, \`systemctl cat kvmnatd\` shows what it may do`;
}

/** Those that this process, and what it starts, is known not to have. */
export function missingCapabilities(): readonly string[] {
  const bits = /^CapEff:\s*([\da-f]+)$/m.exec(readOwnStatus())?.[1];
  if (bits === undefined) return [];
  const owned = BigInt(`0x${bits}`);
  return Object.entries(CAPABILITIES)
    .filter(([, bit]) => ((owned >> BigInt(bit)) & 1n) === 0n)
    .map(([name]) => name);
}

/** Empty where it cannot be read: it only explains another failure, which may be that no more files can be opened. */
function readOwnStatus(): string {
  try {
    return readFileSync("/proc/self/status", "utf8");
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return "";
  }
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
