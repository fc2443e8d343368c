import type { Mac } from "../net/address.ts";
import type { ProbeResults } from "./lookup.ts";

/*
 * To ask anew who is at a place forgets what the kernel has heard since it was asked last. A guest that is always a
 * little late would never be heard, and what is leased at its address would be taken for nobody's. So the kernel's list
 * is read before each question too, and what came late counts where the next question finds nobody:
 *
 *   asked, silent ... answer ... asked, silent        -> who answered in between
 *   asked, silent, asked at once, answer              -> the same: it may be the first question's answer
 *   late before, asked, answer in time, asked, silent -> the same
 *   asked, answer read too late, asked, silent        -> the same: it may have come too late
 *   asked, answer in time, asked, silent              -> nobody: who was there has left
 */

/** So long the last answer counts of who has come too late for a question: who is slow once is slow the next time. */
const LATE_MS = 5000;
/** So long after a question that nobody answered an answer may be meant for that one. */
const OVERDUE_MS = 1000;
/** Addresses come and go; more than this a kernel's table does not hold either. */
const SILENT_MAX = 4096;

export interface LateAnswers {
  /** Nobody answered there in time when it was asked last. */
  awaits(key: string): boolean;
  /** What the kernel has heard at all places before they are asked anew. */
  note(heard: ProbeResults, nowMs: number): void;
  /**
   * Who answered now, or else who had been late.
   * @param isLate whether the answers were read after the time to answer
   */
  complete(answers: ProbeResults, nowMs: number, isLate?: boolean): ProbeResults;
}

/** Remembers who answers too late. Keys of places are {@link ProbeResults}'; times are of one clock, in ms. */
export function createLateAnswers(): LateAnswers {
  /** Places at which nobody had answered in time when they were asked last, and when that was over. */
  const silent = new Map<string, number>();
  const late = new Map<string, { readonly mac: Mac; readonly endsAtMs: number }>();

  function remember(key: string, mac: Mac, nowMs: number): void {
    late.set(key, { mac, endsAtMs: nowMs + LATE_MS });
    silent.delete(key);
  }

  /** One that came in time does not make who was late before quick: it may have been near the limit. */
  function hear(key: string, mac: Mac, nowMs: number): void {
    const askedMs = silent.get(key);
    silent.delete(key);
    const isOverdue = askedMs !== undefined && nowMs - askedMs < OVERDUE_MS;
    if (isOverdue || late.has(key)) remember(key, mac, nowMs);
  }

  return {
    awaits: (key) => silent.has(key),
    note(heard, nowMs) {
      for (const key of silent.keys()) {
        const mac = heard.get(key);
        if (mac !== undefined) remember(key, mac, nowMs);
      }
      for (const [key, { endsAtMs }] of late) if (endsAtMs < nowMs) late.delete(key);
    },
    complete(answers, nowMs, isLate = false) {
      if (silent.size > SILENT_MAX) silent.clear();
      return new Map(
        [...answers].map(([key, mac]) => {
          if (mac === undefined) silent.set(key, nowMs);
          else if (isLate) remember(key, mac, nowMs);
          else hear(key, mac, nowMs);
          return [key, mac ?? late.get(key)?.mac];
        }),
      );
    },
  };
}
