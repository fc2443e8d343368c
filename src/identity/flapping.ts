import { lastMinute } from "../rate-limit.ts";

/*
 * A guest that answers at two leases can renew them alternately. Each time the other lease is the newest, so the guest's
 * forwards would move without end, with log lines for each rule. A guest that has moved this often within a minute
 * stays at its address as long as it answers there.
 */
const MAX_MOVES_PER_MINUTE = 6;

/**
 * The times of the moves within the last minute, including the one made now.
 * @param before times of earlier moves, epoch ms
 * @param hasMoved whether the guest moves now
 */
export function recordMove(before: readonly number[], hasMoved: boolean, nowMs: number): readonly number[] {
  const recent = lastMinute(before, nowMs);
  return hasMoved ? [...recent, nowMs].slice(-MAX_MOVES_PER_MINUTE) : recent;
}

/** Whether a guest with these earlier moves (epoch ms) stays at its address. */
export function isFlapping(movedAtMs: readonly number[], nowMs: number): boolean {
  return lastMinute(movedAtMs, nowMs).length >= MAX_MOVES_PER_MINUTE;
}
