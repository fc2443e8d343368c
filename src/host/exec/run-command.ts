import type { ReadStream } from "node:fs";
import { CommandError } from "../../errors.ts";
import { missingCapabilities } from "./capabilities.ts";
import { ExecaError, programs } from "./programs.ts";

export interface CommandOptions {
  readonly input?: string;
  /** Timeout after which the program gets SIGTERM and, one second later, SIGKILL. */
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** An open file that becomes the program's standard input. */
  readonly stdin?: ReadStream;
}

export interface CommandOutput {
  readonly stdout: string;
  readonly stderr: string;
}

/** Timeout for a program: one that takes longer hangs. */
export const TIMEOUT_MS = 20_000;

/** Debian packages of programs, for the message when one is missing. */
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
    const { stdout, stderr } = await programs(env)(file, args, {
      ...(input === undefined ? { stdin } : { input }),
      ...(signal === undefined ? {} : { cancelSignal: signal }),
      timeout: timeoutMs,
      forceKillAfterDelay: 1000,
      stripFinalNewline: false,
      maxBuffer: 1_000_000_000,
    });
    return { stdout, stderr };
  } catch (error) {
    if (error instanceof ExecaError) throw commandError(argv, failureOf(error, timeoutMs));
    throw error;
  }
}

/**
 * Passes on each line of a program whose output may not fit into memory.
 * @returns its standard error
 * @throws CommandError when it is missing or fails
 */
export async function readLines(argv: readonly string[], onLine: (line: string) => void): Promise<string> {
  const [file = "", ...args] = argv;
  const running = programs()(file, args, {
    stdin: "ignore",
    buffer: { stdout: false, stderr: true },
  });
  try {
    for await (const line of running) onLine(line);
    return (await running).stderr;
  } catch (error) {
    if (error instanceof ExecaError) throw commandError(argv, failureOf(error, 0));
    throw error;
  }
}

/** How a program failed: one of these, and its standard error. */
interface Failure {
  readonly isMissing?: boolean;
  /** Stopped after this time. */
  readonly lateMs?: number;
  readonly exitCode?: number | undefined;
  /** Any other end. */
  readonly ended?: string;
  readonly stderr: string;
  readonly cause?: unknown;
}

export function commandError(argv: readonly string[], failure: Failure): CommandError {
  const stderr = failure.stderr.trim();
  const { exitCode, isMissing = false, cause } = failure;
  const details = { argv, exitCode, isMissing, stderr, cause };
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

/** Programs report a missing capability in different words, or not at all (iproute2 under systemd's filters). */
function missingRight(stderr: string): string {
  const missing = missingCapabilities();
  if (missing.length === 0) return "";
  const isRefused = /permission denied|operation not permitted|must be root/i.test(stderr);
  // Only iptables-legacy needs CAP_NET_RAW, and it reports the refusal.
  if (!isRefused && missing.every((name) => name === "CAP_NET_RAW")) return "";
  const names = missing.join(" and ");
  return `; kvmnatd needs root or ${names}; of a service, \`systemctl cat kvmnatd\` shows what it may do`;
}
