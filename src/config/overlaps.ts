import { familiesOfListen, formatListen } from "./values/listen-address.ts";
import type { Forward } from "./port-map.ts";
import type { Listen } from "./values/listen-address.ts";

/** Two forwards with the same port of the same address; `later` is below `earlier` in the file. */
export interface Overlap {
  readonly earlier: Forward;
  readonly later: Forward;
}

/** Forwards that may collide, sorted by first port. */
interface Lane {
  readonly forwards: readonly Forward[];
  /** At each index, the forward with the highest last port up to it. */
  readonly highest: readonly Forward[];
}

/**
 * Finds publications that collide. Every forward that takes part in a collision is in at least one pair;
 * not every pair is given, so that 10,000 copies of one line make 10,000 pairs and not 50 million.
 *
 *     any IPv4     |-----|   |--|      compared with each other, and with all below
 *     10.0.0.1        |-|              compared with each other, and with "any"
 *     eth0                    |---|    the same; its addresses are not known here (see host-addresses.ts)
 */
export function findOverlaps(forwards: readonly Forward[]): readonly Overlap[] {
  const found = new Map<string, Overlap>();
  const note = (one: Forward, other: Forward | undefined): void => {
    if (other === undefined) return;
    const pair = compare(one, other) < 0 ? { earlier: one, later: other } : { earlier: other, later: one };
    const key = `${entryKey(pair.earlier)}\n${entryKey(pair.later)}`;
    if (!found.has(key)) found.set(key, pair);
  };
  for (const lane of groupLanes(forwards, ({ listen }) => listen.map(formatListen)).values())
    lane.forwards.forEach((forward, index) => note(forward, findConflict(lane, forward, index - 1)));
  const anywhere = groupLanes(forwards, ({ listen }) => familiesIn(listen, true));
  const somewhere = groupLanes(forwards, ({ listen }) => familiesIn(listen, false));
  for (const [key, any] of anywhere) {
    const some = somewhere.get(key);
    if (some === undefined) continue;
    for (const forward of some.forwards) note(forward, findConflict(any, forward));
    for (const forward of any.forwards) note(forward, findConflict(some, forward));
  }
  return [...found.values()];
}

function familiesIn(listens: readonly Listen[], isAny: boolean): readonly string[] {
  const families = listens.filter(({ kind }) => (kind === "any") === isAny).flatMap(familiesOfListen);
  return [...new Set(families)].map(String);
}

/** Lanes by protocol and key; a forward is in one lane for each of its keys. */
function groupLanes(
  forwards: readonly Forward[],
  keysOf: (forward: Forward) => readonly string[],
): ReadonlyMap<string, Lane> {
  const groups = new Map<string, Forward[]>();
  for (const forward of forwards)
    for (const key of keysOf(forward)) {
      const lane = `${forward.protocol} ${key}`;
      const group = groups.get(lane);
      if (group === undefined) groups.set(lane, [forward]);
      else group.push(forward);
    }
  return new Map(Array.from(groups, ([key, group]) => [key, buildLane(group)]));
}

function buildLane(unsorted: readonly Forward[]): Lane {
  const forwards = unsorted.toSorted((a, b) => a.published.first - b.published.first || compare(a, b));
  const highest: Forward[] = [];
  for (const forward of forwards) {
    const before = highest.at(-1);
    highest.push(before !== undefined && before.published.last >= forward.published.last ? before : forward);
  }
  return { forwards, highest };
}

/** Finds another forward that has a port of this one, up to index `end`: the nearest below, or the one that reaches highest. */
function findConflict(
  lane: Lane,
  forward: Forward,
  end = lastStartingBy(lane.forwards, forward.published.last),
): Forward | undefined {
  return [lane.forwards[end], lane.highest[end]].find(
    (each) =>
      each !== undefined &&
      each.published.last >= forward.published.first &&
      entryKey(each) !== entryKey(forward),
  );
}

/** Returns the index of the last forward that starts at or below the port; -1 for none. The forwards are sorted by first port. */
export function lastStartingBy(forwards: readonly Forward[], port: number): number {
  let [low, high] = [0, forwards.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    const first = forwards[middle]?.published.first ?? Number.POSITIVE_INFINITY;
    if (first <= port) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The guest is part of the key, because guests that share an anchored list have the same place in the file. */
function entryKey({ where, guest }: Forward): string {
  return `${where.line}:${where.column} ${guest}`;
}

function compare(one: Forward, other: Forward): number {
  return (
    (one.where.line ?? 0) - (other.where.line ?? 0) ||
    (one.where.column ?? 0) - (other.where.column ?? 0) ||
    (one.guest < other.guest ? -1 : 1)
  );
}
