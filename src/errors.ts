import type { EventCode } from "./event-codes.ts";
import type { Diagnostic } from "./diagnostic.ts";

/** Exit codes: sysexits.h where it has a name for it. */
export const EXIT = {
  ok: 0,
  failed: 1,
  changes: 2,
  degraded: 3,
  notRunning: 4,
  usage: 64,
  bug: 70,
  config: 78,
} as const;

interface ErrorOptions {
  readonly cause?: unknown;
  readonly retryable?: boolean;
}

/** An effect that failed. Anything else that is thrown is a bug. */
export class KvmnatdError extends Error {
  readonly code: EventCode;
  /** Whether the same call may work later without anybody changing the config. */
  readonly retryable: boolean;

  constructor(code: EventCode, message: string, options: ErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.retryable = options.retryable ?? true;
  }
}

/** The config cannot be used; every fault is in `diagnostics`. */
export class ConfigError extends KvmnatdError {
  readonly diagnostics: readonly Diagnostic<string>[];
  /** The text the diagnostics point into; empty when the file could not be read. */
  readonly source: string;

  constructor(message: string, diagnostics: readonly Diagnostic<string>[], source: string) {
    super("config-invalid", message, { retryable: false });
    this.diagnostics = diagnostics;
    this.source = source;
  }
}

/** A program that was run and failed. */
export class CommandError extends KvmnatdError {
  readonly argv: readonly string[];
  readonly exitCode: number | undefined;
  /** The program is not installed. */
  readonly isMissing: boolean;
  readonly stderr: string;
  readonly input: string | undefined;

  constructor(
    message: string,
    details: {
      readonly argv: readonly string[];
      readonly exitCode: number | undefined;
      readonly isMissing: boolean;
      readonly stderr: string;
      readonly input: string | undefined;
      readonly cause: unknown;
    },
  ) {
    super("command-failed", message, { cause: details.cause });
    this.argv = details.argv;
    this.exitCode = details.exitCode;
    this.isMissing = details.isMissing;
    this.stderr = details.stderr;
    this.input = details.input;
  }
}

/** The kernel is not what was applied: somebody else writes the same rules at the same time. */
export class VerifyError extends KvmnatdError {
  constructor(message: string) {
    super("verify-failed", message);
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
