import type { EventCode } from "./event-codes.ts";
import { createError } from "./diagnostic.ts";
import type { Diagnostic } from "./diagnostic.ts";

/** Exit codes of the program; those above 63 are those of sysexits.h. */
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
  /** Whether the same call may succeed later with the same config. */
  readonly retryable: boolean;

  constructor(code: EventCode, message: string, { cause, retryable = true }: ErrorOptions = {}) {
    super(message, { cause });
    this.name = new.target.name;
    this.code = code;
    this.retryable = retryable;
  }

  /** @param severity `warning` when every forward works in spite of the failure */
  toDiagnostic(severity: Diagnostic["severity"] = "error"): Diagnostic {
    return { ...createError(this.code, this.message), severity };
  }
}

/** The config cannot be used; every reason is in `diagnostics`. */
export class ConfigError extends KvmnatdError {
  readonly diagnostics: readonly Diagnostic<string>[];
  /** The text that the diagnostics point into; empty when the file could not be read. */
  readonly source: string;

  constructor(message: string, diagnostics: readonly Diagnostic<string>[], source: string) {
    super("config-invalid", message, { retryable: false });
    this.diagnostics = diagnostics;
    this.source = source;
  }
}

type CommandFailure = Pick<CommandError, "argv" | "exitCode" | "isMissing" | "stderr" | "cause">;

/** A program that was run and failed. */
export class CommandError extends KvmnatdError {
  readonly argv!: readonly string[];
  /** Undefined when the program did not end by itself. */
  readonly exitCode!: number | undefined;
  /** Whether the program is not installed. */
  readonly isMissing!: boolean;
  readonly stderr!: string;

  constructor(message: string, { cause, ...fields }: CommandFailure) {
    super("command-failed", message, { cause });
    Object.assign(this, fields);
  }
}

/** The kernel does not have the rules that were just applied: another program writes them at the same time. */
export class VerifyError extends KvmnatdError {
  constructor(message: string) {
    super("verify-failed", message);
  }
}

/** @returns the code of a failed system call, such as `ENOENT`; undefined for any other error, which is a bug */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error &&
    "code" in error &&
    typeof error.code === "string" &&
    !(error instanceof KvmnatdError)
    ? error.code
    : undefined;
}
