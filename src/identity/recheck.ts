/*
 * A guest that has just got its first lease is published at once, though it may need some milliseconds to answer there.
 * So silence is no fault, but neither does it say that nobody else answers later. It is asked again, soon at first and
 * then ever more rarely; after a minute only when a pass is made anyway, so that hundreds of quiet guests cost nothing.
 */
const ASK_MIN_MS = 50;
const ASK_MAX_MS = 300_000;
const WATCH_MS = 60_000;

/** Nobody has answered yet at the only address that a guest can have. Epoch ms. */
export interface Unanswered {
  readonly sinceMs: number;
  readonly askAtMs: number;
}

/** Whether to ask now. A clock that was set back must not make it wait. */
export function isDue({ sinceMs, askAtMs }: Unanswered, nowMs: number): boolean {
  return nowMs >= askAtMs || nowMs < sinceMs;
}

/** Asked again (or for the first time), and still nobody answers. */
export function updateUnanswered(before: Unanswered | undefined, nowMs: number): Unanswered {
  const sinceMs = Math.min(before?.sinceMs ?? nowMs, nowMs);
  return { sinceMs, askAtMs: nowMs + Math.min(Math.max(nowMs - sinceMs, ASK_MIN_MS), ASK_MAX_MS) };
}

/** When a pass is to be made to ask, epoch ms; undefined: when one is made anyway. */
export function recheckAtMs({ sinceMs, askAtMs }: Unanswered): number | undefined {
  return askAtMs - sinceMs > WATCH_MS ? undefined : askAtMs;
}
