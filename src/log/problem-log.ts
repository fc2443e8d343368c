import type { LogEntry } from "./audit-entries.ts";
import type { Diagnostic } from "../diagnostic.ts";

/*
 * What is told of problems, and how often. A guest can make problems of its own (rows that cannot be read, names that
 * are not its own) come and go many times a second: of each kind so many lines a minute are told, and the next one says
 * how many were not.
 */
const MAX_LINES_PER_MINUTE = 10;
const MINUTE_MS = 60_000;
/** No guest makes these, and who does waits for the line. */
const ADMINS_OWN: ReadonlySet<string> = new Set(["config-invalid", "port-in-use"]);

/** One kind of line. */
interface RateLimit {
  readonly sinceMs: number;
  readonly lines: number;
  /** Kept back since the last line. */
  readonly kept: number;
}

/** By kind. */
type Quotas = ReadonlyMap<string, RateLimit>;

/** @returns undefined when one more line of this kind has to be kept back; else the quotas after it, and how many were */
function takeLine(
  quotas: Quotas,
  kind: string,
  nowMs: number,
): { readonly quotas: Quotas; readonly kept: number } | undefined {
  const before = quotas.get(kind);
  // A clock that was set back begins a new minute.
  const isOver = before === undefined || nowMs < before.sinceMs || nowMs - before.sinceMs >= MINUTE_MS;
  if (!isOver && before.lines >= MAX_LINES_PER_MINUTE && !ADMINS_OWN.has(kind)) return undefined;
  const next = isOver ? { sinceMs: nowMs, lines: 1 } : { sinceMs: before.sinceMs, lines: before.lines + 1 };
  return { quotas: new Map([...quotas, [kind, { ...next, kept: 0 }]]), kept: before?.kept ?? 0 };
}

function keepLine(quotas: Quotas, kind: string): Quotas {
  const before = quotas.get(kind);
  return before === undefined ? quotas : new Map([...quotas, [kind, { ...before, kept: before.kept + 1 }]]);
}

/** What has been told, from one pass to the next. */
export interface ProblemLog {
  /** Messages of problems that were told and are not over. */
  readonly told: ReadonlySet<string>;
  /** Those that stand and were kept back; each is counted once. */
  readonly kept: ReadonlySet<string>;
  readonly quotas: Quotas;
}

export const EMPTY_PROBLEM_LOG: ProblemLog = { told: new Set(), kept: new Set(), quotas: new Map() };

interface Told {
  readonly telling: ProblemLog;
  readonly entries: readonly LogEntry[];
}

/** Each problem once, when it appears, and once more when it is over. */
export function logProblems(
  before: ProblemLog,
  problems: readonly Pick<Diagnostic, "code" | "message" | "severity">[],
  pass: number,
  nowMs: number,
): Told {
  const told = new Set<string>();
  const kept = new Set<string>();
  let { quotas } = before;
  const entries: LogEntry[] = [];
  for (const { code, message, severity } of problems) {
    if (told.has(message) || before.told.has(message)) {
      told.add(message);
      continue;
    }
    const line = takeLine(quotas, code, nowMs);
    if (line === undefined) {
      if (!kept.has(message) && !before.kept.has(message)) quotas = keepLine(quotas, code);
      kept.add(message);
      continue;
    }
    ({ quotas } = line);
    told.add(message);
    const level = severity === "error" ? "error" : "warn";
    // This one may have been counted itself.
    const others = line.kept - (before.kept.has(message) ? 1 : 0);
    entries.push({ level, event: code, message: `${message}${andMore(others)}`, pass });
  }
  const over = [...before.told].filter((message) => !told.has(message));
  entries.push(...over.map((message) => tellOver(message, pass)));
  return { telling: { told, kept, quotas }, entries };
}

function tellOver(message: string, pass: number): LogEntry {
  // What followed from it, after the semicolon, is over too.
  return {
    level: "info",
    event: "problem-resolved",
    message: `over: ${message.split("; ", 1)[0]}`,
    pass,
  };
}

/**
 * The audit trail of a pass, less what guests could make it say without end: what is known of a guest whose rules stay
 * as they are, and what its late replies begin again. A rule that is added or removed is always told.
 */
export function limitEntries(before: ProblemLog, entries: readonly LogEntry[], nowMs: number): Told {
  let { quotas } = before;
  const limited = entries.flatMap(({ quota, ...entry }): readonly LogEntry[] => {
    if (quota === undefined) return [entry];
    const line = takeLine(quotas, quota, nowMs);
    quotas = line?.quotas ?? keepLine(quotas, quota);
    return line === undefined ? [] : [{ ...entry, message: `${entry.message}${andMore(line.kept)}` }];
  });
  return { telling: { ...before, quotas }, entries: limited };
}

function andMore(kept: number): string {
  return kept <= 0 ? "" : ` (and ${kept} more like it before, not told one by one)`;
}
