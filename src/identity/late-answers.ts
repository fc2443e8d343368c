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
/**
 * Maximum number of histories. Addresses that never answer have one for ever, and a hostile guest can take any number of
 * leases. The number is above that of the entries in the kernel's neighbour table.
 */
const MAX_HISTORIES = 4096;

/** What is remembered of the probes of one address. Times are of one monotonic clock, in ms. */
interface ProbeHistory {
  /** End of the last probe; undefined when it had an answer. */
  readonly silentSinceMs: number | undefined;
  /** The last answer that was late. It is the result of a probe without an answer. */
  readonly late: LateAnswer | undefined;
}

interface LateAnswer {
  readonly mac: Mac;
  readonly endsAtMs: number;
}

/**
 * The histories of addresses that had no answer or a late one, by networkAddressKey. The address that was probed last is
 * the last one.
 */
export type ProbeHistories = ReadonlyMap<string, ProbeHistory>;

/** The probes of one pass. */
export interface ProbeRound {
  /** The MACs in the kernel's table before the probes, of addresses whose last probe had no answer. */
  readonly earlier: ProbeResults;
  readonly answers: ProbeResults;
  /** Whether the answers were read after the time to answer was over. */
  readonly isReadLate: boolean;
  /** End of the probes. */
  readonly endMs: number;
}

/** Adds the probes of one pass to the histories. @returns the results of the probes too, late answers included */
export function recordProbes(
  histories: ProbeHistories,
  round: ProbeRound,
): { readonly histories: ProbeHistories; readonly results: ProbeResults } {
  const { answers, endMs } = round;
  const probed = [...answers.keys()].map(
    (key) => [key, recordProbe(histories.get(key) ?? NOTHING, key, round)] as const,
  );
  const isNeeded = ([, { silentSinceMs, late }]: readonly [string, ProbeHistory]): boolean =>
    silentSinceMs !== undefined || (late !== undefined && late.endsAtMs >= endMs);
  const others = [...histories].filter(([key]) => !answers.has(key)).filter(isNeeded);
  const kept = [...others, ...probed.filter(isNeeded)];
  return {
    histories: new Map(kept.slice(-Math.max(MAX_HISTORIES, probed.length))),
    results: new Map(probed.map(([key, { late }]) => [key, answers.get(key) ?? late?.mac])),
  };
}

const NOTHING: ProbeHistory = { silentSinceMs: undefined, late: undefined };

/** @returns the history of one address with its probe of this round */
function recordProbe(history: ProbeHistory, key: string, round: ProbeRound): ProbeHistory {
  const { isReadLate, endMs } = round;
  const answer = round.answers.get(key);
  const late = findLateAnswer(history, round.earlier.get(key), endMs);
  if (answer === undefined) return { silentSinceMs: endMs, late };
  const isOverdue = history.silentSinceMs !== undefined && endMs - history.silentSinceMs < OVERDUE_MS;
  // An answer in time does not make a guest quick that was late before: it can be just within the limit.
  const isLate = isReadLate || isOverdue || late !== undefined;
  return { silentSinceMs: undefined, late: isLate ? toLateAnswer(answer, endMs) : undefined };
}

/** The late answer that counts when a probe ends. */
function findLateAnswer(
  { silentSinceMs, late }: ProbeHistory,
  earlier: Mac | undefined,
  endMs: number,
): LateAnswer | undefined {
  if (silentSinceMs !== undefined && earlier !== undefined) return toLateAnswer(earlier, endMs);
  return late !== undefined && late.endsAtMs >= endMs ? late : undefined;
}

function toLateAnswer(mac: Mac, nowMs: number): LateAnswer {
  return { mac, endsAtMs: nowMs + VALID_MS };
}
