import type { SuspectPorts } from "./changed-ports.ts";
import { mergeSuspects } from "./changed-ports.ts";
import { canBeAnsweredLate, clientKey, isNotRedirected } from "./flow.ts";
import type { Flow } from "./flow.ts";
import type { Suspects } from "./stale-flows.ts";

/*
 * When connections are checked. Pure: the clock is an argument.
 *
 *   rules changed ----> in the same pass; what that pass does not get done, in the next
 *   check failed -----> again after RETRY_MS
 *   entries removed --> again after RECHECKS_MS, because a reply that was under way creates an entry that leads back
 *   still removed ----> again every RECHECK_INTERVAL_MS, until MAX_AGE_MS
 */

/** Interval between a check that failed and the next. */
const RETRY_MS = 10_000;
/** Age of a check at which it is made again. A slow server's reply takes seconds. */
const RECHECKS_MS: readonly number[] = [1000, 4000, 15_000];
/** Interval between checks that still find something to remove. */
const RECHECK_INTERVAL_MS = 15_000;
/** Interval between checks that did not get everything done, where only servers' entries are left. */
const UNFINISHED_MS = 1000;
/** Maximum age of a check. A guest could keep replying forever. */
const MAX_AGE_MS = 60_000;
/** Maximum number of clients for which checks search late replies of the host. More at one time indicate an attack. */
const MAX_CLIENTS = 10_000;

/** A check that is to be made. All times are monotonic, in ms. */
export interface PendingCheck extends Suspects {
  readonly dueAtMs: number;
  /** When its age begins; undefined until something is removed that may be answered late. */
  readonly sinceMs: number | undefined;
  /** Why it could not be made the last time; undefined if it was not tried yet. */
  readonly failure: string | undefined;
}

/** What a check has done. */
export interface CheckOutcome {
  readonly removed: readonly Flow[];
  /** The end that began the entries that are left: they can wait if it was always the server. */
  readonly left: "none" | "client" | "server";
}

export function createCheck(suspects: SuspectPorts, nowMs: number): PendingCheck {
  return { ...suspects, clients: new Set(), dueAtMs: nowMs, sinceMs: undefined, failure: undefined };
}

/** One check instead of several. */
export function mergeChecks(checks: readonly Suspects[]): Suspects {
  const clients = checks.flatMap((check) => [...check.clients]);
  return { ...mergeSuspects(checks), clients: new Set(clients.slice(-MAX_CLIENTS)) };
}

/** @returns the check to be made after this one; undefined after the last */
export function planNextCheck(
  check: PendingCheck,
  { removed, left }: CheckOutcome,
  nowMs: number,
): PendingCheck | undefined {
  const answerable = removed.filter(canBeAnsweredLate);
  const clients = [...check.clients, ...answerable.filter(isNotRedirected).map(clientKey)];
  const next = { ...check, clients: new Set(clients.slice(-MAX_CLIENTS)), failure: undefined };
  if (left === "client")
    return { ...next, sinceMs: answerable.length === 0 ? check.sinceMs : nowMs, dueAtMs: nowMs };
  if (check.sinceMs === undefined && answerable.length === 0 && left === "none") return undefined;
  const sinceMs = check.sinceMs ?? nowMs;
  const ageMs = nowMs - sinceMs;
  const nextAgeMs = left === "server" ? ageMs + UNFINISHED_MS : recheckAgeMs(ageMs, removed.length > 0);
  if (nextAgeMs === undefined || nextAgeMs > MAX_AGE_MS) return undefined;
  return { ...next, sinceMs, dueAtMs: sinceMs + nextAgeMs };
}

/** All checks that failed are made again as one: conntrack may fail for hours. */
export function planRetry(
  checks: readonly PendingCheck[],
  outcome: CheckOutcome,
  failure: string,
  nowMs: number,
): readonly PendingCheck[] {
  const dueAtMs = nowMs + RETRY_MS;
  const retry: PendingCheck = { ...mergeChecks(checks), dueAtMs, sinceMs: undefined, failure };
  const recheck = planNextCheck(retry, outcome, nowMs);
  return recheck === undefined ? [retry] : [retry, recheck];
}

function recheckAgeMs(ageMs: number, isRemoving: boolean): number | undefined {
  const planned = RECHECKS_MS.find((atMs) => atMs > ageMs);
  return planned ?? (isRemoving ? ageMs + RECHECK_INTERVAL_MS : undefined);
}
