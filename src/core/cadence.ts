/*
 * When the next pass runs. Pure: the clock is an argument.
 *
 *   hint ------> now, but PASS_GAP_MS after the start of the pass before
 *   rules hint > now, but RULES_GAP_MS after the start of the pass before
 *   file hint -> and once more SECOND_LOOK_MS later
 *   success ---> when a lease expires or linger ends
 *   failure ---> after 0.25 s, 0.5 s, 1 s ... 30 s
 */

/** chokidar drops a second change within 50 ms and has no trailing event; measured: nothing is missed after this long. */
export const SECOND_LOOK_MS = 150;
/** Between the starts of two passes: a file rewritten 500 times a second must not take the processor. */
export const PASS_GAP_MS = 100;
/** The same for passes that only the ruleset asks for. */
const RULES_GAP_MS = 900;
const RETRY_FIRST_MS = 250;
const RETRY_MAX_MS = 30_000;
/** setTimeout takes 31 bits; what is further away is simply looked at earlier. */
const SLEEP_MAX_MS = 3_600_000;

export interface Cadence {
  /** When a pass is due; absent: nothing is to be done. */
  readonly dueAtMs?: number;
  /** When to look once more, whatever the pass before it found. */
  readonly secondLookAtMs?: number;
  readonly lastStartMs?: number;
  readonly failures: number;
}

export const IDLE: Cadence = { failures: 0 };

/** Something may have changed: look now. The first hint after a quiet time waits for nothing. */
export function onHint(cadence: Cadence, nowMs: number): Cadence {
  return due(cadence, Math.max(nowMs, earliest(cadence, nowMs)));
}

/** The same for a file, which may change again unseen right after: look once more when the events have settled. */
export function onFileHint(cadence: Cadence, nowMs: number): Cadence {
  return { ...onHint(cadence, nowMs), secondLookAtMs: nowMs + SECOND_LOOK_MS };
}

/** The ruleset has changed, maybe by us: look, but a neighbour who changes it all the time costs a pass a second. */
export function onRulesHint(cadence: Cadence, nowMs: number): Cadence {
  const quietMs = nowMs - (cadence.lastStartMs ?? Number.NEGATIVE_INFINITY);
  const waits = quietMs >= 0 && quietMs < RULES_GAP_MS;
  return waits ? due(cadence, nowMs + RULES_GAP_MS - quietMs) : onHint(cadence, nowMs);
}

/** A pass begins: it serves everything that was due. */
export function onStart(cadence: Cadence, nowMs: number): Cadence {
  const { secondLookAtMs, failures } = cadence;
  const later = secondLookAtMs !== undefined && secondLookAtMs > nowMs;
  return { lastStartMs: nowMs, failures, ...(later ? { secondLookAtMs } : {}) };
}

/** @param wakeAtMs when time alone will change the outcome */
export function onSuccess(cadence: Cadence, nowMs: number, wakeAtMs: number | undefined): Cadence {
  const calm: Cadence = { ...cadence, failures: 0 };
  return wakeAtMs === undefined ? calm : due(calm, Math.max(wakeAtMs, earliest(cadence, nowMs)));
}

export function onFailure(cadence: Cadence, nowMs: number): Cadence {
  const waitMs = Math.min(RETRY_FIRST_MS * 2 ** cadence.failures, RETRY_MAX_MS);
  return due({ ...cadence, failures: cadence.failures + 1 }, nowMs + waitMs);
}

/** How long to sleep until the next pass, in ms; undefined: until a hint comes. */
export function sleepMs(cadence: Cadence, nowMs: number): number | undefined {
  const at = Math.min(
    cadence.dueAtMs ?? Number.POSITIVE_INFINITY,
    cadence.secondLookAtMs ?? Number.POSITIVE_INFINITY,
  );
  return at === Number.POSITIVE_INFINITY ? undefined : Math.min(Math.max(at - nowMs, 0), SLEEP_MAX_MS);
}

function due(cadence: Cadence, atMs: number): Cadence {
  return { ...cadence, dueAtMs: Math.min(cadence.dueAtMs ?? atMs, atMs) };
}

/** A clock that was set back must not make a pass wait. */
function earliest(cadence: Cadence, nowMs: number): number {
  const next = (cadence.lastStartMs ?? Number.NEGATIVE_INFINITY) + PASS_GAP_MS;
  return next - nowMs > PASS_GAP_MS ? nowMs : next;
}
