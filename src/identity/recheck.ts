/*
 * One schedule for everything that probes have not settled. A guest that has just got a lease may need some
 * milliseconds to answer, so it is probed again soon; the interval grows with the age of the doubt.
 *
 *   doubt     | what is known                                     | probed again after clamp(age, 50 ms, 5 s)
 *   none      | the guest answers at its only address             | -
 *   silent    | no neighbour answers at its only address          | after a minute only in passes made anyway
 *   ambiguous | several addresses, or another MAC answers         | always
 *
 * Hundreds of guests that are silent for long cost no pass of their own. An ambiguous guest may be under attack.
 */
const MIN_INTERVAL_MS = 50;
const MAX_INTERVAL_MS = 5000;
/** Maximum age at which a silent guest causes passes of its own. */
const MAX_SILENT_MS = 60_000;
/** The age that is assumed where no beginning is recorded: a guest that never had an address. */
const UNKNOWN_AGE_MS = 1000;

export type Doubt = "none" | "silent" | "ambiguous";

/** A doubt that is open. Times are epoch ms. */
export interface Recheck {
  readonly doubt: Exclude<Doubt, "none">;
  readonly sinceMs: number;
  readonly dueAtMs: number;
}

/** When to probe again, epoch ms. */
export function nextProbeMs(nowMs: number, ageMs: number = UNKNOWN_AGE_MS): number {
  return nowMs + Math.min(Math.max(ageMs, MIN_INTERVAL_MS), MAX_INTERVAL_MS);
}

/**
 * The recheck after a pass.
 * @param before that of the pass before; it stays until it is due
 */
export function scheduleRecheck(
  doubt: Doubt,
  before: Recheck | undefined,
  nowMs: number,
): Recheck | undefined {
  if (doubt === "none") return undefined;
  const open = before?.doubt === doubt ? before : undefined;
  if (open !== undefined && !isDue(open, nowMs)) return open;
  const sinceMs = Math.min(open?.sinceMs ?? nowMs, nowMs);
  return { doubt, sinceMs, dueAtMs: nextProbeMs(nowMs, nowMs - sinceMs) };
}

/** Whether to probe now. A clock that was set back must not make it wait. */
export function isDue({ sinceMs, dueAtMs }: Recheck, nowMs: number): boolean {
  return nowMs >= dueAtMs || nowMs < sinceMs;
}

/** When to make a pass for this recheck, epoch ms; undefined: it waits for a pass made anyway. */
export function recheckWakeMs({ doubt, sinceMs, dueAtMs }: Recheck): number | undefined {
  return doubt === "silent" && dueAtMs - sinceMs > MAX_SILENT_MS ? undefined : dueAtMs;
}
