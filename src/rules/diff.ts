import { diffLibvirtTable } from "./libvirt-table.ts";
import type { NftChange } from "./libvirt-table.ts";
import { findObstacles } from "./jump-position.ts";
import type { Actual, Chains, Desired, Jump, RuleText, Table } from "./ruleset.ts";
import { isOwnedChain, isOwnedRule, ruleKey, TABLES } from "./ruleset.ts";
import type { Family } from "../net/address.ts";

/** One step between actual and desired. */
export type Change = IptablesChange | NftChange;

export type IptablesChange =
  | { readonly kind: "create-chain" | "delete-chain"; readonly table: Table; readonly chain: string }
  | {
      readonly kind: "remove";
      readonly table: Table;
      readonly chain: string;
      readonly rule: RuleText;
      /** 1-based place in a chain of others, as it was read. */
      readonly place?: number;
    }
  | {
      readonly kind: "add";
      readonly table: Table;
      readonly chain: string;
      readonly rule: RuleText;
      /** 1-based place in the chain once every change before this one is made. */
      readonly position: number;
      /** Whether that is the chain's end. */
      readonly last: boolean;
    };

export type Diff = readonly Change[];

/**
 *   in desired | in actual | ours | change
 *   -----------+-----------+------+---------------------------
 *       yes    |    no     |      | add
 *       yes    |    yes    |      | none (move: remove and add)
 *       no     |    yes    | yes  | remove
 *       no     |    yes    | no   | none: foreign, never touched
 */
export function diffRulesets(desired: Desired, actual: Actual): Diff {
  const iptables = TABLES.flatMap((table): Diff => [
    ...createdChains(desired.chains[table], actual.tables[table], table),
    ...ownChains(desired.chains[table], actual.tables[table], table),
    ...jumpChanges(desired, actual, table),
    ...deletedChains(desired.chains[table], actual.tables[table], table),
  ]);
  return [...iptables, ...diffLibvirtTable(desired.libvirt, actual.libvirt)];
}

function createdChains(desired: Chains, actual: Chains, table: Table): Diff {
  const missing = [...desired.keys()].filter((chain) => !actual.has(chain));
  return missing.map((chain) => ({ kind: "create-chain", table, chain }));
}

function deletedChains(desired: Chains, actual: Chains, table: Table): Diff {
  const surplus = [...actual.keys()].filter((chain) => isOwnedChain(chain) && !desired.has(chain));
  return surplus.map((chain) => ({ kind: "delete-chain", table, chain }));
}

/** Rules of the chains that are ours alone; those of a chain to be deleted go rule by rule, so that the log names them. */
function ownChains(desired: Chains, actual: Chains, table: Table): Diff {
  const chains = new Set([...desired.keys(), ...[...actual.keys()].filter(isOwnedChain)]);
  return [...chains].flatMap((chain) =>
    diffChain(table, chain, desired.get(chain) ?? [], actual.get(chain) ?? []),
  );
}

/** Only what differs is touched: the counters of the other rules go on counting. */
function diffChain(
  table: Table,
  chain: string,
  desired: readonly RuleText[],
  actual: readonly RuleText[],
): Diff {
  const kept = keepInOrder(...comparable(desired, actual));
  const removed = actual.filter((_, index) => !kept.actual.has(index));
  const additions: Change[] = [];
  let length = kept.actual.size;
  for (const [index, rule] of desired.entries()) {
    if (kept.desired.has(index)) continue;
    additions.push({ kind: "add", table, chain, rule, position: index + 1, last: index === length });
    length += 1;
  }
  return [...removed.map((rule): Change => ({ kind: "remove", table, chain, rule })), ...additions];
}

/** Keys of both; where the very text is on both sides, as it mostly is, that saves taking the rule apart. */
function comparable(
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
 * Which rules may stay: as many as are in the wanted order already. `-D RULE` takes the first of several equal rules,
 * so of equal ones it is the last that may stay.
 */
function keepInOrder(
  wanted: readonly string[],
  actual: readonly string[],
): { readonly desired: ReadonlySet<number>; readonly actual: ReadonlySet<number> } {
  const places = new Map<string, number>(wanted.map((key, index) => [key, index]));
  const lasts = new Map(actual.map((key, index) => [key, index]));
  const common = [...actual.entries()].flatMap(([index, key]) => {
    const place = places.get(key);
    return place === undefined || lasts.get(key) !== index ? [] : [{ index, place }];
  });
  const kept = longestIncreasing(common.map(({ place }) => place)).flatMap((at) => common[at] ?? []);
  return {
    desired: new Set(kept.map(({ place }) => place)),
    actual: new Set(kept.map(({ index }) => index)),
  };
}

/** Indexes of a longest strictly increasing subsequence, by patience sorting: n log n, also of 10,000 rules. */
function longestIncreasing(values: readonly number[]): readonly number[] {
  /** Of each length, the index at which the sequence of that length with the smallest end ends. */
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

function jumpChanges(desired: Desired, actual: Actual, table: Table): Diff {
  const jumps = desired.jumps.filter((jump) => jump.table === table);
  const chains = actual.tables[table];
  const foreign = [...chains.keys()].filter((chain) => !isOwnedChain(chain));
  const names = new Set([...jumps.map((jump) => jump.chain), ...foreign]);
  return [...names].flatMap((chain) =>
    jumpsOfChain(
      table,
      chain,
      jumps.filter((jump) => jump.chain === chain),
      chains,
      actual.dropping.has(`${table} ${chain}`),
    ),
  );
}

function jumpsOfChain(
  table: Table,
  chain: string,
  jumps: readonly Jump[],
  chains: Chains,
  policyDrops: boolean,
): Diff {
  const rules = chains.get(chain) ?? [];
  const obstacles = new Map(jumps.map((jump) => [jump, findObstacles(jump, chains, policyDrops)]));
  const isObstacle = (rule: RuleText, jump: Jump): boolean => obstacles.get(jump)?.(rule) ?? false;
  const missing = new Map(jumps.map((jump) => [ruleKey(jump.rule), jump]));
  const owned = rules.filter(isOwnedRule).map(ruleKey);
  const removed: Change[] = [];
  const stay: RuleText[] = [];
  for (const [index, rule] of rules.entries()) {
    const key = isOwnedRule(rule) ? ruleKey(rule) : undefined;
    if (key === undefined) {
      stay.push(rule);
      continue;
    }
    const jump = missing.get(key);
    // Of a double none stays: `-D` takes the first, and the one left could be the one that stands too late.
    const single = owned.indexOf(key) === owned.lastIndexOf(key);
    const isTooLate = jump !== undefined && rules.slice(0, index).some((before) => isObstacle(before, jump));
    if (jump !== undefined && single && !isTooLate) {
      stay.push(rule);
      missing.delete(key);
    } else removed.push({ kind: "remove", table, chain, rule, place: index + 1 });
  }
  const added = [...missing.values()].map((jump): Change => {
    // Directly before the first that rejects: an admin's own blocklist, higher up, keeps its say.
    const first = stay.findIndex((rule) => isObstacle(rule, jump));
    const position = jump.mustPrecedeRejectsFor === undefined ? 1 : (first === -1 ? stay.length : first) + 1;
    const last = position === stay.length + 1;
    stay.splice(position - 1, 0, jump.rule);
    return { kind: "add", table, chain, rule: jump.rule, position, last };
  });
  return [...removed, ...added];
}

export interface FamilyChange {
  readonly family: Family;
  readonly change: Change;
}
