import { findEarliest } from "../earliest.ts";
import { countRecent, lastMinute, RATE_WINDOW_MS, recordEvent } from "../rate-limit.ts";
import type { RecentEvents } from "../rate-limit.ts";
import type { Diff } from "./diff.ts";
import { LIBVIRT_TABLE } from "./libvirt-table.ts";
import { isOwnedChain, ruleKey } from "./ruleset.ts";
import type { Jump, RuleText } from "./ruleset.ts";

/*
 * Two programs that both insert their rule first would move their rules past each other forever. So kvmnatd repairs the
 * position of a rule three times per minute; then it leaves the rule where it is, reports that in log and status, and
 * tries once per minute whether the other program has stopped.
 */
const MAX_REPAIRS_PER_MINUTE = 3;
const MAX_TRIES_PER_MINUTE = 1;

/** The repairs of the last minute, by the location of the rule. */
export interface RepairHistory {
  readonly repairs: RecentEvents;
  /** Locations that kvmnatd leaves to another program, except for one try per minute. */
  readonly backedOff: ReadonlySet<string>;
}

export const NO_REPAIRS: RepairHistory = { repairs: new Map(), backedOff: new Set() };

/** A rule of ours in a foreign chain that stands where it does not help. */
export interface Move {
  /** The same for every move of this rule in this chain. */
  readonly location: string;
  readonly rule: RuleText;
  /** The foreign rule that precedes it; undefined when there is none. */
  readonly blocker: RuleText | undefined;
}

/**
 * @returns the rules that the diff removes once and adds again; a rule that stands twice was not moved by another program,
 * but an old ruleset was restored over the current one
 */
export function findMoves(diff: Diff): readonly Move[] {
  const removals = Map.groupBy(
    diff.filter((change) => change.kind === "remove"),
    ruleLocation,
  );
  return diff.flatMap((change): readonly Move[] => {
    if (change.kind !== "add" || isOwnedChain(change.chain)) return [];
    const location = ruleLocation(change);
    const [removal, second] = removals.get(location) ?? [];
    if (removal === undefined || second !== undefined) return [];
    return [{ location, rule: change.rule, blocker: removal.blocker }];
  });
}

/** @returns the diff without these moves */
export function withoutMoves(diff: Diff, moves: readonly Move[]): Diff {
  const locations = new Set(moves.map(({ location }) => location));
  return locations.size === 0 ? diff : diff.filter((change) => !locations.has(ruleLocation(change)));
}

/** @returns the moves that the limit does not allow now */
export function findBackedOffMoves(
  moves: readonly Move[],
  { repairs, backedOff }: RepairHistory,
  nowMs: number,
): readonly Move[] {
  return moves.filter(({ location }) => {
    const max = backedOff.has(location) ? MAX_TRIES_PER_MINUTE : MAX_REPAIRS_PER_MINUTE;
    return countRecent(repairs, location, nowMs) >= max;
  });
}

/**
 * Records a pass.
 * @param repositioned rules that it moved back to their position
 * @param backedOff rules that it did not move because of the limit
 */
export function recordRepairs(
  history: RepairHistory,
  {
    repositioned,
    backedOff,
  }: { readonly repositioned: readonly Move[]; readonly backedOff: readonly Move[] },
  nowMs: number,
): RepairHistory {
  const recorded = repositioned.reduce(
    (repairs, { location }) => recordEvent(repairs, location, nowMs),
    history.repairs,
  );
  const recent = [...recorded].map(([location, times]) => [location, lastMinute(times, nowMs)] as const);
  const repairs = new Map(recent.filter(([, times]) => times.length > 0));
  const locations = [...history.backedOff, ...backedOff.map(({ location }) => location)];
  // A rule that kept its position for a minute counts as undisturbed again.
  return { repairs, backedOff: new Set(locations.filter((location) => repairs.has(location))) };
}

/** Whether another program has the position of this rule, or had it within the last minute. */
export function isBackedOff({ backedOff }: RepairHistory, jump: Jump): boolean {
  return backedOff.has(ruleLocation(jump));
}

/** Whether the move is that of this rule. */
export function isMoveOf(move: Move, jump: Jump): boolean {
  return move.location === ruleLocation(jump);
}

/** @returns when a position that was left to another program is tried again, epoch ms */
export function nextTryMs({ repairs, backedOff }: RepairHistory): number | undefined {
  const firstMs = findEarliest([...backedOff].map((location) => repairs.get(location)?.at(-1)));
  return firstMs === undefined ? undefined : firstMs + RATE_WINDOW_MS;
}

interface Location {
  readonly table: string;
  readonly chain: string;
  /** Undefined for a change of a whole chain. */
  readonly rule?: RuleText;
}

function ruleLocation({ table, chain, rule = "" }: Location): string {
  return [table, chain, table === LIBVIRT_TABLE ? rule : ruleKey(rule)].join(" ");
}
