import type { LogEntry } from "./audit-entries.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { countRecent, recordEvent } from "../rate-limit.ts";
import type { RecentEvents } from "../rate-limit.ts";

/*
 * Which problems are logged, and how often. A guest can make problems (unreadable lease rows, a foreign host name)
 * appear and disappear many times per second. Lines of one kind are therefore rate-limited; the next line of that kind
 * says how many were suppressed.
 */
const MAX_LINES_PER_MINUTE = 10;
/** Problems that only the administrator can cause. They are never rate-limited. */
const UNLIMITED: ReadonlySet<string> = new Set(["config-invalid", "port-in-use"]);

interface LineLimits {
  /** Lines that were logged, by kind. */
  readonly logged: RecentEvents;
  /** Number of suppressed lines since the last logged line, by kind. */
  readonly suppressed: ReadonlyMap<string, number>;
}

/** What was logged until now, from one pass to the next. */
export interface ProblemLog {
  /** Messages of the problems that were logged and still exist. */
  readonly open: ReadonlySet<string>;
  /** Messages of the problems that still exist and were suppressed; each is counted once. */
  readonly suppressed: ReadonlySet<string>;
  readonly limits: LineLimits;
}

export const EMPTY_PROBLEM_LOG: ProblemLog = {
  open: new Set(),
  suppressed: new Set(),
  limits: { logged: new Map(), suppressed: new Map() },
};

/** Lines to log now, and the state for the next pass. */
interface Logged {
  readonly log: ProblemLog;
  readonly entries: readonly LogEntry[];
}

/**
 * Logs each problem once when it appears, and once more when it is resolved.
 * @param problems all that exist now
 */
export function logProblems(
  before: ProblemLog,
  problems: readonly Pick<Diagnostic, "code" | "message" | "severity">[],
  pass: number,
  nowMs: number,
): Logged {
  const open = new Set<string>();
  const suppressed = new Set<string>();
  let { limits } = before;
  const entries: LogEntry[] = [];
  for (const { code, message, severity } of problems) {
    if (open.has(message) || before.open.has(message)) {
      open.add(message);
    } else if (isAllowed(limits, code, nowMs)) {
      open.add(message);
      // This problem may be one of the suppressed lines itself.
      const others = suppressedLines(limits, code) - (before.suppressed.has(message) ? 1 : 0);
      const level = severity === "error" ? "error" : "warn";
      entries.push({ level, event: code, message: `${message}${describeSuppressed(others)}`, pass });
      limits = recordLine(limits, code, nowMs);
    } else {
      if (!suppressed.has(message) && !before.suppressed.has(message)) limits = suppressLine(limits, code);
      suppressed.add(message);
    }
  }
  const resolved = [...before.open].filter((message) => !open.has(message));
  entries.push(...resolved.map((message) => resolvedEntry(message, pass)));
  return { log: { open, suppressed, limits }, entries };
}

function resolvedEntry(message: string, pass: number): LogEntry {
  // After the semicolon stand the consequences, which are over too.
  const [problem = message] = message.split("; ", 1);
  return { level: "info", event: "problem-resolved", message: `over: ${problem}`, pass };
}

/**
 * Limits the lines of the audit trail that a guest could cause without end; such a line carries a `limitKey`. Lines about
 * rules carry none and are always logged.
 */
export function limitEntries(before: ProblemLog, entries: readonly LogEntry[], nowMs: number): Logged {
  let { limits } = before;
  const limited = entries.flatMap(({ limitKey, ...entry }): readonly LogEntry[] => {
    if (limitKey === undefined) return [entry];
    if (!isAllowed(limits, limitKey, nowMs)) {
      limits = suppressLine(limits, limitKey);
      return [];
    }
    const message = `${entry.message}${describeSuppressed(suppressedLines(limits, limitKey))}`;
    limits = recordLine(limits, limitKey, nowMs);
    return [{ ...entry, message }];
  });
  return { log: { ...before, limits }, entries: limited };
}

function isAllowed({ logged }: LineLimits, kind: string, nowMs: number): boolean {
  return UNLIMITED.has(kind) || countRecent(logged, kind, nowMs) < MAX_LINES_PER_MINUTE;
}

function suppressedLines({ suppressed }: LineLimits, kind: string): number {
  return suppressed.get(kind) ?? 0;
}

function recordLine({ logged, suppressed }: LineLimits, kind: string, nowMs: number): LineLimits {
  const others = [...suppressed].filter(([each]) => each !== kind);
  return { logged: recordEvent(logged, kind, nowMs), suppressed: new Map(others) };
}

function suppressLine(limits: LineLimits, kind: string): LineLimits {
  const count = suppressedLines(limits, kind) + 1;
  return { ...limits, suppressed: new Map([...limits.suppressed, [kind, count]]) };
}

function describeSuppressed(count: number): string {
  if (count <= 0) return "";
  return ` (${count === 1 ? "1 similar line before it was" : `${count} similar lines before it were`} not logged)`;
}
