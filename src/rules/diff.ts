import { diffLibvirtTable } from "./libvirt-table.ts";
import type { NftChange } from "./libvirt-table.ts";
import { findObstacles } from "./jump-position.ts";
import type { Actual, Chains, Desired, Jump, RuleText, Table } from "./ruleset.ts";
import { isOwnedChain, isOwnedRule, ruleKey, TABLES } from "./ruleset.ts";
import type { Family } from "../net/address.ts";

/** One step from the actual to the desired ruleset. */
export type Change = IptablesChange | NftChange;

export type IptablesChange =
  | { readonly kind: "create-chain" | "delete-chain"; readonly table: Table; readonly chain: string }
  | {
      readonly kind: "remove";
      readonly table: Table;
      readonly chain: string;
      readonly rule: RuleText;
      /** 1-based position in a foreign chain, as it was read; undefined in our own chains. */
      readonly place: number | undefined;
      /** The foreign rule that stands before this one and must not; undefined when the position is not the reason. */
      readonly blocker: RuleText | undefined;
    }
  | {
      readonly kind: "add";
      readonly table: Table;
      readonly chain: string;
      readonly rule: RuleText;
      /** 1-based position in the chain after all changes before this one. */
      readonly position: number;
      /** Whether that is the end of the chain. */
      readonly last: boolean;
    };

export type Diff = readonly Change[];

/**
 * Compares the desired with the actual ruleset of one family.
 *
 *   in desired | in actual | ours | change
 *   -----------+-----------+------+---------------------------
 *       yes    |    no     |      | add
 *       yes    |    yes    |      | none, or remove and add when it must move
 *       no     |    yes    | yes  | remove
 *       no     |    yes    | no   | none: foreign, never touched
 */
export function diffRulesets(desired: Desired, actual: Actual): Diff {
  const iptables = TABLES.flatMap((table): Diff => [
    ...createMissingChains(desired.chains[table], actual.tables[table], table),
    ...diffOwnChains(desired.chains[table], actual.tables[table], table),
    ...diffJumps(desired, actual, table),
    ...deleteSurplusChains(desired.chains[table], actual.tables[table], table),
  ]);
  return [...iptables, ...diffLibvirtTable(desired.libvirt, actual.libvirt)];
}

function createMissingChains(desired: Chains, actual: Chains, table: Table): Diff {
  const missing = [...desired.keys()].filter((chain) => !actual.has(chain));
  return missing.map((chain) => ({ kind: "create-chain", table, chain }));
}

function deleteSurplusChains(desired: Chains, actual: Chains, table: Table): Diff {
  const surplus = [...actual.keys()].filter((chain) => isOwnedChain(chain) && !desired.has(chain));
  return surplus.map((chain) => ({ kind: "delete-chain", table, chain }));
}

/** The rules of our own chains. A chain that is to be deleted loses its rules one by one, so that the log names them. */
function diffOwnChains(desired: Chains, actual: Chains, table: Table): Diff {
  const chains = new Set([...desired.keys(), ...[...actual.keys()].filter(isOwnedChain)]);
  return [...chains].flatMap((chain) =>
    diffChain(table, chain, desired.get(chain) ?? [], actual.get(chain) ?? []),
  );
}

/** Only the difference is touched, so that the other rules keep their counters. */
function diffChain(
  table: Table,
  chain: string,
  desired: readonly RuleText[],
  actual: readonly RuleText[],
): Diff {
  const kept = keepInOrder(...toComparableKeys(desired, actual));
  const removed = actual.filter((_, index) => !kept.actual.has(index));
  const additions: Change[] = [];
  let length = kept.actual.size;
  for (const [index, rule] of desired.entries()) {
    if (kept.desired.has(index)) continue;
    additions.push({ kind: "add", table, chain, rule, position: index + 1, last: index === length });
    length += 1;
  }
  const removals = removed.map((rule): Change => ({
    kind: "remove",
    table,
    chain,
    rule,
    place: undefined,
    blocker: undefined,
  }));
  return [...removals, ...additions];
}

/** @returns the keys of both; a text that is on both sides, as most are, is its own key, which saves parsing it */
function toComparableKeys(
  desired: readonly RuleText[],
  actual: readonly RuleText[],
): [wanted: readonly string[], actual: readonly string[]] {
  const [wantedTexts, actualTexts] = [new Set(desired), new Set(actual)];
  return [
    desired.map((rule) => (actualTexts.has(rule) ? rule : ruleKey(rule))),
    actual.map((rule) => (wantedTexts.has(rule) ? rule : ruleKey(rule))),
  ];
}

/**
 * Finds the rules that stay: as many as stand in the desired order already. `-D RULE` deletes the first of several equal
 * rules, so only the last of them may stay.
 * @returns the indexes of these rules on each side
 */
function keepInOrder(
  wanted: readonly string[],
  actual: readonly string[],
): { readonly desired: ReadonlySet<number>; readonly actual: ReadonlySet<number> } {
  const positions = new Map<string, number>(wanted.map((key, index) => [key, index]));
  const lasts = new Map(actual.map((key, index) => [key, index]));
  const common = [...actual.entries()].flatMap(([index, key]) => {
    const position = positions.get(key);
    return position === undefined || lasts.get(key) !== index ? [] : [{ index, position }];
  });
  const kept = findLongestIncreasing(common.map(({ position }) => position)).flatMap(
    (at) => common[at] ?? [],
  );
  return {
    desired: new Set(kept.map(({ position }) => position)),
    actual: new Set(kept.map(({ index }) => index)),
  };
}

/** @returns the indexes of a longest strictly increasing subsequence, by patience sorting in O(n log n) */
function findLongestIncreasing(values: readonly number[]): readonly number[] {
  /** For each length: the index at which the sequence of that length with the smallest end ends. */
  const ends: number[] = [];
  const before: (number | undefined)[] = [];
  for (const [index, value] of values.entries()) {
    let [low, high] = [0, ends.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((values[ends[middle] ?? 0] ?? 0) < value) low = middle + 1;
      else high = middle;
    }
    before[index] = ends[low - 1];
    ends[low] = index;
  }
  const sequence: number[] = [];
  for (let at = ends.at(-1); at !== undefined; at = before[at]) sequence.push(at);
  return sequence.toReversed();
}

/** A chain that kvmnatd does not own, built-in or of another program. It may hold rules of ours. */
interface ForeignChain {
  readonly table: Table;
  readonly chain: string;
  readonly rules: readonly RuleText[];
}

/** A jump that is desired in a chain. */
interface DesiredJump {
  readonly jump: Jump;
  readonly key: string;
  /** Whether a rule must not precede it. */
  readonly isObstacle: (rule: RuleText) => boolean;
}

function diffJumps(desired: Desired, actual: Actual, table: Table): Diff {
  const jumps = desired.jumps.filter((jump) => jump.table === table);
  const chains = actual.tables[table];
  const foreign = [...chains.keys()].filter((chain) => !isOwnedChain(chain));
  const names = new Set([...jumps.map((jump) => jump.chain), ...foreign]);
  return [...names].flatMap((chain) => {
    const policyDrops = actual.dropping.has(`${table} ${chain}`);
    const own = jumps.filter((jump) => jump.chain === chain);
    return diffForeignChain(
      { table, chain, rules: chains.get(chain) ?? [] },
      own.map((jump): DesiredJump => ({
        jump,
        key: ruleKey(jump.rule),
        isObstacle: findObstacles(jump, chains, policyDrops),
      })),
    );
  });
}

function diffForeignChain({ table, chain, rules }: ForeignChain, jumps: readonly DesiredJump[]): Diff {
  const owned = rules.map((rule) => (isOwnedRule(rule) ? ruleKey(rule) : undefined));
  const isSingle = (key: string | undefined): boolean => owned.indexOf(key) === owned.lastIndexOf(key);
  const removed: Change[] = [];
  const kept: RuleText[] = [];
  const present = new Set<DesiredJump>();
  for (const [index, rule] of rules.entries()) {
    const key = owned[index];
    const wanted = key === undefined ? undefined : jumps.find((jump) => jump.key === key);
    const blocker = wanted === undefined ? undefined : rules.slice(0, index).find(wanted.isObstacle);
    // A duplicated rule is deleted completely and added once: `-D` deletes the first match, and the remaining copy might
    // stand too late.
    const stays = wanted !== undefined && blocker === undefined && isSingle(key);
    if (key === undefined || stays) {
      kept.push(rule);
      if (wanted !== undefined) present.add(wanted);
    } else removed.push({ kind: "remove", table, chain, rule, place: index + 1, blocker });
  }
  const missing = jumps.filter((jump) => !present.has(jump));
  return [...removed, ...addJumps({ table, chain, rules: kept }, missing)];
}

/** @param rules of the chain after the removals */
function addJumps({ table, chain, rules }: ForeignChain, missing: readonly DesiredJump[]): Diff {
  const result = [...rules];
  return missing.map(({ jump, isObstacle }): Change => {
    // Directly before the first rule that rejects, so that an administrator's blocklist above it stays in force.
    const first = jump.mustPrecedeRejectsFor === undefined ? 0 : result.findIndex(isObstacle);
    const index = first === -1 ? result.length : first;
    const last = index === result.length;
    result.splice(index, 0, jump.rule);
    return { kind: "add", table, chain, rule: jump.rule, position: index + 1, last };
  });
}

/** A change of one family's rules. */
export interface FamilyChange {
  readonly family: Family;
  readonly change: Change;
}
