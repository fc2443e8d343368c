/*
 * A guest that answers at two leases can renew them alternately. Each time the other lease is the newest, so its
 * forwards would move without end, with log lines for each rule. A guest that has moved this often within a minute
 * stays at its address as long as it answers there.
 */
const MAX_MOVES_PER_MINUTE = 6;
const MINUTE_MS = 60_000;

/**
 * The times of the moves within the last minute, including the one made now. Times after `nowMs` are dropped: the clock
 * was set back.
 * @param before times of earlier moves, epoch ms
 * @param hasMoved whether the guest moves now
 */
export function recentMoves(before: readonly number[], hasMoved: boolean, nowMs: number): readonly number[] {
  const recent = before.filter((atMs) => atMs <= nowMs && nowMs - atMs < MINUTE_MS);
  return hasMoved ? [...recent, nowMs].slice(-MAX_MOVES_PER_MINUTE) : recent;
}

/** Whether a guest with these earlier moves (epoch ms) stays at its address. */
export function isFlapping(movedAtMs: readonly number[], nowMs: number): boolean {
  return recentMoves(movedAtMs, false, nowMs).length >= MAX_MOVES_PER_MINUTE;
}
