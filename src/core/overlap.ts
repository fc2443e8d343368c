import type { PortRange } from "./address.ts";
import { familiesOf, formatListen } from "./listen.ts";
import type { Forward, Listen } from "./port-map.ts";

/** Two forwards that want the same port of the same address; `later` stands below `earlier` in the file. */
export interface Overlap {
  readonly earlier: Forward;
  readonly later: Forward;
}

/** Forwards of one protocol and one listen, by first port. */
interface Lane {
  readonly listen: Listen;
  readonly forwards: readonly Forward[];
  /** For each index, the forward that reaches highest among those up to it. */
  readonly highest: readonly Forward[];
}

/**
 * Finds publications that collide. Every forward that takes part in a collision is in at least one pair;
 * not every pair is given, so that 10,000 copies of one line make 10,000 pairs and not 50 million.
 */
export function findOverlaps(forwards: readonly Forward[]): readonly Overlap[] {
  const lanes = buildLanes(forwards);
  const found = new Map<string, Overlap>();
  const note = (one: Forward, other: Forward | undefined): void => {
    if (other === undefined || sameEntry(one, other)) return;
    const pair = compare(one, other) < 0 ? { earlier: one, later: other } : { earlier: other, later: one };
    const key = `${entryKey(pair.earlier)}\n${entryKey(pair.later)}`;
    if (!found.has(key)) found.set(key, pair);
  };
  for (const [key, lane] of lanes) {
    lane.forwards.forEach((forward, index) => {
      if (index > 0) note(forward, holderIn(lane, forward.published, index - 1));
    });
    for (const any of lane.listen.kind === "any" ? [] : anyLanes(lanes, key, lane.listen))
      for (const forward of lane.forwards) note(forward, holderIn(any, forward.published));
  }
  return [...found.values()];
}

function buildLanes(forwards: readonly Forward[]): ReadonlyMap<string, Lane> {
  const groups = new Map<string, { listen: Listen; forwards: Forward[] }>();
  for (const forward of forwards)
    for (const listen of forward.listen) {
      const key = `${forward.protocol} ${formatListen(listen)}`;
      const group = groups.get(key) ?? { listen, forwards: [] };
      group.forwards.push(forward);
      groups.set(key, group);
    }
  return new Map(Array.from(groups, ([key, group]) => [key, buildLane(group.listen, group.forwards)]));
}

function buildLane(listen: Listen, unsorted: readonly Forward[]): Lane {
  const forwards = unsorted.toSorted((a, b) => a.published.first - b.published.first || compare(a, b));
  const highest: Forward[] = [];
  for (const forward of forwards) {
    const before = highest.at(-1);
    highest.push(before !== undefined && before.published.last >= forward.published.last ? before : forward);
  }
  return { listen, forwards, highest };
}

function anyLanes(lanes: ReadonlyMap<string, Lane>, key: string, listen: Listen): readonly Lane[] {
  const protocol = key.slice(0, key.indexOf(" "));
  return familiesOf(listen).flatMap(
    (family) => lanes.get(`${protocol} ${formatListen({ kind: "any", family })}`) ?? [],
  );
}

/** Who holds a port of the range, among the forwards up to index `end`: the nearest below, else the highest. */
function holderIn(lane: Lane, range: PortRange, end = lastStartingBy(lane, range.last)): Forward | undefined {
  return [lane.forwards[end], lane.highest[end]].find(
    (each) => each !== undefined && each.published.last >= range.first,
  );
}

/** Index of the last forward that starts at or below the port; -1 for none. */
function lastStartingBy(lane: Lane, port: number): number {
  let [low, high] = [0, lane.forwards.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    const first = lane.forwards[middle]?.published.first ?? Number.POSITIVE_INFINITY;
    if (first <= port) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function sameEntry(one: Forward, other: Forward): boolean {
  return one === other || entryKey(one) === entryKey(other);
}

/** An anchored list of ports has one place in the file and many guests. */
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
