import type { EventCode } from "./event-codes.ts";

/**
 * Bad input is data: parsers return what they could read plus a list of these.
 * Effects that fail throw instead (see ../errors.ts).
 */
export interface Place {
  /** The file's path as the user named it. */
  readonly file: string;
  /** 1-based; absent when the fault is the file as a whole. */
  readonly line?: number;
  /** 1-based, in UTF-16 units. */
  readonly column?: number;
}

export interface Issue<Code extends string = string> {
  /** Stable, kebab-case; for machines and tests. */
  readonly code: Code;
  /** What is wrong and what to do about it, one sentence, no trailing period needed. */
  readonly message: string;
  readonly where: Place;
  /** `warning` is told but does not refuse the input. */
  readonly severity: "error" | "warning";
}

/** What a parser gives: the value, or undefined where nothing could be read, and every fault. */
export interface Parsed<T, Code extends string = string> {
  readonly value: T;
  readonly issues: readonly Issue<Code>[];
}

/** Something an admin should act on. */
export interface Problem {
  readonly code: EventCode;
  readonly message: string;
  /** A `warning` leaves every forward working as asked. */
  readonly severity: "error" | "warning";
}
