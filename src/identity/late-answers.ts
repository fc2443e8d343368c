import type { Mac } from "../net/address.ts";
import type { ProbeResults } from "./lookup.ts";

/*
 * A probe makes the kernel forget the answer to the probe before. The answers of a guest that always answers a little
 * late would never be seen, and a forged lease of its address would be taken for a silent guest's. So the kernel's
 * neighbour table is read before each probe as well, and a late answer is the result of the next probe without one:
 *
 *   probe, silence ... answer ... probe, silence          -> the answer in between
 *   probe, silence, soon after: probe, answer             -> it can be the first probe's: late
 *   late before, probe, answer in time, probe, silence    -> the late answer still counts
 *   probe, result read too late, probe, silence           -> the result can have been late
 *   probe, answer in time, probe, silence                 -> no answer: the guest has left
 */

/** How long a late answer stays valid. A guest that was slow once is usually slow again. */
const VALID_MS = 5000;
/** Maximum time after an unanswered probe in which an answer can belong to it. */
const OVERDUE_MS = 1000;
/** Maximum number of addresses without an answer. The kernel's table does not hold more. */
const MAX_SILENT = 4096;

/** Memory of late answers. Keys are those of {@link ProbeResults}; times are of one monotonic clock, in ms. */
export interface LateAnswers {
  /** Whether the last probe of this address had no answer in time. */
  isSilent(key: string): boolean;
  /** Records what the kernel's table says before the next probes. */
  recordEarlier(answers: ProbeResults, nowMs: number): void;
  /**
   * Records the results of probes.
   * @param isReadLate whether they were read after the time to answer was over
   * @returns the results, completed by late answers
   */
  complete(results: ProbeResults, nowMs: number, isReadLate: boolean): ProbeResults;
}

export function createLateAnswers(): LateAnswers {
  /** When the last probe ended without an answer, by address. */
  const silentSinceMs = new Map<string, number>();
  const late = new Map<string, { readonly mac: Mac; readonly endsAtMs: number }>();

  function recordLate(key: string, mac: Mac, nowMs: number): void {
    late.set(key, { mac, endsAtMs: nowMs + VALID_MS });
    silentSinceMs.delete(key);
  }

  /** An answer in time does not make a guest quick that was late before: it can be just within the limit. */
  function recordAnswer(key: string, mac: Mac, nowMs: number): void {
    const sinceMs = silentSinceMs.get(key);
    silentSinceMs.delete(key);
    const isOverdue = sinceMs !== undefined && nowMs - sinceMs < OVERDUE_MS;
    if (isOverdue || late.has(key)) recordLate(key, mac, nowMs);
  }

  return {
    isSilent: (key) => silentSinceMs.has(key),
    recordEarlier(answers, nowMs) {
      for (const key of silentSinceMs.keys()) {
        const mac = answers.get(key);
        if (mac !== undefined) recordLate(key, mac, nowMs);
      }
      for (const [key, { endsAtMs }] of late) if (endsAtMs < nowMs) late.delete(key);
    },
    complete(results, nowMs, isReadLate) {
      if (silentSinceMs.size > MAX_SILENT) silentSinceMs.clear();
      return new Map(
        [...results].map(([key, mac]) => {
          if (mac === undefined) silentSinceMs.set(key, nowMs);
          else if (isReadLate) recordLate(key, mac, nowMs);
          else recordAnswer(key, mac, nowMs);
          return [key, mac ?? late.get(key)?.mac];
        }),
      );
    },
  };
}
