import type { Mac } from "../net/address.ts";

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

/** What is remembered of the probes of one address. Times are of one monotonic clock, in ms. */
export interface ProbeHistory {
  /** End of the last probe; undefined when it had an answer. */
  readonly silentSinceMs: number | undefined;
  /** The last answer that was late. It is the result of a probe without an answer. */
  readonly late: LateAnswer | undefined;
}

interface LateAnswer {
  readonly mac: Mac;
  readonly endsAtMs: number;
}

/** One probe of an address. */
export interface Probe {
  /** The MAC in the kernel's table before the probe. */
  readonly earlier: Mac | undefined;
  readonly answer: Mac | undefined;
  /** Whether the answer was read after the time to answer was over. */
  readonly isReadLate: boolean;
  /** End of the probe. */
  readonly endMs: number;
}

const NOTHING: ProbeHistory = { silentSinceMs: undefined, late: undefined };

/** Adds a probe to the history of its address. */
export function recordProbe(history: ProbeHistory = NOTHING, probe: Probe): ProbeHistory {
  const { answer, isReadLate, endMs } = probe;
  const late = findLateAnswer(history, probe);
  if (answer === undefined) return { silentSinceMs: endMs, late };
  const isOverdue = history.silentSinceMs !== undefined && endMs - history.silentSinceMs < OVERDUE_MS;
  // An answer in time does not make a guest quick that was late before: it can be just within the limit.
  const isLate = isReadLate || isOverdue || late !== undefined;
  return { silentSinceMs: undefined, late: isLate ? toLateAnswer(answer, endMs) : undefined };
}

/** The late answer that counts when a probe ends. */
function findLateAnswer(
  { silentSinceMs, late }: ProbeHistory,
  { earlier, endMs }: Probe,
): LateAnswer | undefined {
  if (silentSinceMs !== undefined && earlier !== undefined) return toLateAnswer(earlier, endMs);
  return late !== undefined && late.endsAtMs >= endMs ? late : undefined;
}

function toLateAnswer(mac: Mac, nowMs: number): LateAnswer {
  return { mac, endsAtMs: nowMs + VALID_MS };
}
