/*
 * A guest that has two leases and answers at both may renew them by turns: each time the other one is the newest, and its
 * forwards would move as often as it likes, with a line in the log for each of its rules. One that has moved so often
 * stays where it is for as long as it answers there.
 */
const MAX_MOVES_PER_MINUTE = 6;
const WITHIN_MS = 60_000;

/** @returns when it moved lately, with the move that it makes now; a clock that was set back forgets */
export function recentMoves(
  before: readonly number[] = [],
  moves: boolean,
  nowMs: number,
): readonly number[] {
  const recent = before.filter((atMs) => atMs <= nowMs && nowMs - atMs < WITHIN_MS);
  return moves ? [...recent, nowMs].slice(-MAX_MOVES_PER_MINUTE) : recent;
}

export function isFlapping(movedAtMs: readonly number[] = [], nowMs: number): boolean {
  return recentMoves(movedAtMs, false, nowMs).length >= MAX_MOVES_PER_MINUTE;
}
