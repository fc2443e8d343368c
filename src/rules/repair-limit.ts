import type { Diff } from "./diff.ts";
import { LIBVIRT_TABLE } from "./libvirt-table.ts";
import { isOwnedChain, ruleKey } from "./ruleset.ts";
import type { Jump, RuleText } from "./ruleset.ts";

/*
 * Two programs that both want to be first would move their rules past each other for ever. So a rule of ours that
 * somebody else keeps pushing back is put right three times in a minute; then it is left where it is, the log and the
 * status say so, and it is tried once a minute whether they have come to terms.
 */
const MINUTE_MS = 60_000;
const LIMIT = 3;

/** What happened to one rule of ours in a chain of others, by {@link ruleLocationKey}. */
interface Repairs {
  readonly repairedAtMs: readonly number[];
  /** Given up, but for one try a minute. */
  readonly lost: boolean;
}

export type RepairHistory = ReadonlyMap<string, Repairs>;

/**
 * Rules that stand, but in a place where they do not help: what the diff takes out once and puts in again. One that
 * stands twice was not pushed back by anybody: an old ruleset was restored on top.
 */
export function findMoves(diff: Diff): ReadonlySet<string> {
  const removals = Map.groupBy(
    diff.filter((change) => change.kind === "remove"),
    ruleLocationKey,
  );
  const moved = diff.filter(
    (change) =>
      change.kind === "add" &&
      !isOwnedChain(change.chain) &&
      removals.get(ruleLocationKey(change))?.length === 1,
  );
  return new Set(moved.map(ruleLocationKey));
}

/** The diff without those moves. */
export function withoutMoves(diff: Diff, held: ReadonlySet<string>): Diff {
  return held.size === 0 ? diff : diff.filter((change) => !held.has(ruleLocationKey(change)));
}

/** Which of these moves are not to be made now. */
export function deferredMoves(
  moves: ReadonlySet<string>,
  contests: RepairHistory,
  nowMs: number,
): ReadonlySet<string> {
  const isHeld = (key: string): boolean => {
    const { repairedAtMs = [], lost = false } = contests.get(key) ?? {};
    return recent(repairedAtMs, nowMs).length >= (lost ? 1 : LIMIT);
  };
  return new Set([...moves].filter(isHeld));
}

/** After a pass. @param moves what it has put right, @param held what it has left where it was */
export function recordRepairs(
  contests: RepairHistory,
  moves: ReadonlySet<string>,
  held: ReadonlySet<string>,
  nowMs: number,
): RepairHistory {
  const keys = new Set([...contests.keys(), ...moves]);
  const next = [...keys].map((key): [string, Repairs] => {
    const { repairedAtMs = [], lost = false } = contests.get(key) ?? {};
    const repairs = recent(repairedAtMs, nowMs);
    if (held.has(key)) return [key, { repairedAtMs: repairs, lost: true }];
    if (moves.has(key)) return [key, { repairedAtMs: [...repairs, nowMs], lost }];
    // It has stood for a minute.
    return [key, { repairedAtMs: repairs, lost: lost && repairs.length > 0 }];
  });
  return new Map(next.filter(([, { repairedAtMs, lost }]) => repairedAtMs.length > 0 || lost));
}

/** @param held the moves that are not made now */
export function isDeferred(held: ReadonlySet<string>, jump: Jump): boolean {
  return held.has(ruleLocationKey(jump));
}

/** Whether the place of a rule of ours is somebody else's, or was within the last minute. */
export function isBackedOff(contests: RepairHistory, jump: Jump): boolean {
  return contests.get(ruleLocationKey(jump))?.lost === true;
}

/** When a contest that was given up is to be looked at again, epoch ms. */
export function nextTryMs(contests: RepairHistory): number | undefined {
  const tries = [...contests.values()].flatMap(({ repairedAtMs, lost }) => {
    const last = repairedAtMs.at(-1);
    return !lost || last === undefined ? [] : [last + MINUTE_MS];
  });
  return tries.length === 0 ? undefined : Math.min(...tries);
}

function recent(times: readonly number[], nowMs: number): readonly number[] {
  return times.filter((at) => at <= nowMs && nowMs - at < MINUTE_MS);
}

interface RuleLocation {
  readonly table: string;
  readonly chain: string;
  readonly rule?: RuleText;
}

function ruleLocationKey({ table, chain, rule = "" }: RuleLocation): string {
  return [table, chain, table === LIBVIRT_TABLE ? rule : ruleKey(rule)].join(" ");
}
