import type { EventCode } from "./event-codes.ts";

/** A place in a file. */
export interface SourceLocation {
  /** The file's path as the user named it. */
  readonly file: string;
  /** 1-based; absent when the diagnostic concerns the whole file. */
  readonly line?: number;
  /** 1-based, in UTF-16 units. */
  readonly column?: number;
}

/**
 * The one shape of everything that is wrong. Parsers return diagnostics beside the value that they could read; effects
 * that fail throw an error instead (errors.ts), which turns into a diagnostic.
 */
export interface Diagnostic<Code extends string = EventCode> {
  /** Stable, kebab-case; for machines and tests. */
  readonly code: Code;
  /** A `warning` does not reject the input, and leaves every forward working as configured. */
  readonly severity: "error" | "warning";
  /** What is wrong and what to do about it, in one sentence without a trailing period. */
  readonly message: string;
  /** Undefined when no file is wrong. */
  readonly where: SourceLocation | undefined;
}

/** What a parser returns: the value, or undefined where nothing could be read, and every diagnostic. */
export interface Parsed<T, Code extends string = string> {
  readonly value: T;
  readonly diagnostics: readonly Diagnostic<Code>[];
}

export function createError<Code extends string>(
  code: Code,
  message: string,
  where?: SourceLocation,
): Diagnostic<Code> {
  return { code, severity: "error", message, where };
}

export function createWarning<Code extends string>(
  code: Code,
  message: string,
  where?: SourceLocation,
): Diagnostic<Code> {
  return { code, severity: "warning", message, where };
}

/** The message with its place, for a log and a status. */
export function describeDiagnostic({ where, message }: Diagnostic<string>): string {
  if (where === undefined) return message;
  return where.line === undefined
    ? `${where.file}: ${message}`
    : `${where.file}: line ${where.line}: ${message}`;
}
