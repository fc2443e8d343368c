/*
 * Who is asked whether it has an address gets an entry in the kernel's neighbour table. That has room for about a
 * thousand, for all networks and namespaces of the host, and a hostile guest can take any number of leases. So there
 * are limits, and what is beyond them gets its turn: by the last digits of the clock, which is as good as chance, so
 * that nothing has to be remembered. All tries within a pass have the same time, and so the same turn.
 */

/** Of one MAC's live leases: these are asked in each pass, beside the address that the forward leads to. */
export const MAX_NEWEST_LEASES: number = 8;
/** And so many of its others. */
const MAX_ROTATED_LEASES = 4;
/** Of all guests together. */
const MAX_PROBES_PER_PASS = 256;

/** Those of the others whose turn it is. */
export function rotateCandidates<T>(others: readonly T[], nowMs: number): readonly T[] {
  return rotate(others, nowMs).slice(0, MAX_ROTATED_LEASES);
}

/**
 * What a pass asks of all that it would like to ask: what matters most to each guest, and a quarter at least of the rest.
 * @param asked how many have been asked in this pass already
 */
export function limitProbes<T extends { readonly isFirst: boolean }>(
  wishes: readonly T[],
  asked: number,
  nowMs: number,
): readonly T[] {
  const room = Math.max(0, MAX_PROBES_PER_PASS - asked);
  if (wishes.length <= room) return wishes;
  const first = wishes.filter((wish) => wish.isFirst);
  const others = wishes.filter((wish) => !wish.isFirst);
  const turn = rotate(others, nowMs).slice(0, Math.max(room - first.length, Math.floor(room / 4)));
  return [...rotate(first, nowMs).slice(0, room - turn.length), ...turn];
}

function rotate<T>(all: readonly T[], nowMs: number): readonly T[] {
  const start = all.length === 0 ? 0 : nowMs % all.length;
  return [...all.slice(start), ...all.slice(0, start)];
}
