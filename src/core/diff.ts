import { diffLibvirtTable } from "./libvirt-table.ts";
import type { NftChange } from "./libvirt-table.ts";
import type { Actual, Chains, Desired, Jump, RuleText, Table } from "./ruleset.ts";
import { isOwnedChain, isOwnedRule, ruleKey, splitOptions, TABLES, targetOf } from "./ruleset.ts";

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
      actual.dropping?.has(`${table} ${chain}`) === true,
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
    const position = jump.beforeRejectsOf === undefined ? 1 : (first === -1 ? stay.length : first) + 1;
    const last = position === stay.length + 1;
    stay.splice(position - 1, 0, jump.rule);
    return { kind: "add", table, chain, rule: jump.rule, position, last };
  });
  return [...removed, ...added];
}

/** Which foreign rule keeps one of these from its work; undefined where none stands before them. */
export function findBlocker(jumps: readonly Jump[], actual: Actual): RuleText | undefined {
  for (const jump of jumps) {
    const chains = actual.tables[jump.table];
    const rules = chains.get(jump.chain) ?? [];
    const own = rules.findIndex((rule) => ruleKey(rule) === ruleKey(jump.rule));
    const policyDrops = actual.dropping?.has(`${jump.table} ${jump.chain}`) === true;
    const blocker = rules.slice(0, own + 1).find(findObstacles(jump, chains, policyDrops));
    if (blocker !== undefined) return blocker;
  }
  return undefined;
}

/** Tells which rules must not stand before this one. */
function findObstacles(jump: Jump, chains: Chains, policyDrops: boolean): (rule: RuleText) => boolean {
  const { beforeRejectsOf: rejected, beforeAcceptsOf: guarded } = jump;
  if (rejected !== undefined) return findRejects(rejected, chains, policyDrops);
  return (rule) => guarded !== undefined && mayLetPast(rule, guarded);
}

const GOES_ON_OR_DROPS: ReadonlySet<string> = new Set(
  "DROP CT NOTRACK TRACE LOG NFLOG MARK CONNMARK SET".split(" "),
);

/** Whether what comes from the bridge may never get to the rules behind this one; chains of others may do anything. */
function mayLetPast(rule: RuleText, bridge: string): boolean {
  const target = targetOf(rule);
  if (target === undefined || GOES_ON_OR_DROPS.has(target)) return false;
  const { negated = false, values: [link = "+"] = [] } =
    splitOptions(rule).find(({ flag }) => flag === "-i") ?? {};
  const matches = link.endsWith("+") ? bridge.startsWith(link.slice(0, -1)) : link === bridge;
  return matches !== negated;
}

/** What becomes of every new connection to a bridge that comes to a rule, or into a chain. */
type Fate = "rejected" | "accepted" | "returned" | "goes on";

/**
 * Tells whether a rule of a built-in chain would reject every new connection to one of the bridges: REJECT or DROP
 * without a condition (or with no other than the bridge), a jump to a chain that does so before it accepts or returns, as
 * libvirt's LIBVIRT_FWI, or a return to a policy of DROP. Each rule is read once, and each chain looked at once a bridge.
 */
function findRejects(
  bridges: readonly string[],
  chains: Chains,
  policyDrops: boolean,
): (rule: RuleText) => boolean {
  const steps = new Map<RuleText, Step | null>();
  const walks = bridges.map((bridge) => {
    const fates = new Map<string, Fate>();
    const fateIn = (chain: string): Fate => {
      const known = fates.get(chain);
      if (known !== undefined) return known;
      // Where chains lead in circles, which the kernel does not allow, it has come back to where it was.
      fates.set(chain, "goes on");
      let fate: Fate = "goes on";
      for (const rule of chains.get(chain) ?? []) {
        fate = fateAt(rule);
        if (fate !== "goes on") break;
      }
      if (fate === "goes on") fate = "returned";
      fates.set(chain, fate);
      return fate;
    };
    const fateAt = (rule: RuleText): Fate => {
      const step = remember(steps, rule, () => toStep(rule) ?? null);
      if (step === null || !(step.bridge === undefined || step.bridge === bridge)) return "goes on";
      const final = FINAL.get(step.target);
      if (final !== undefined) return final;
      if (!chains.has(step.target)) return "goes on";
      const fate = fateIn(step.target);
      return fate === "returned" && !step.isGoto ? "goes on" : fate;
    };
    return fateAt;
  });
  return (rule) =>
    walks.some((fateAt) => {
      const fate = fateAt(rule);
      return fate === "rejected" || (fate === "returned" && policyDrops);
    });
}

function remember<T>(known: Map<string, T>, key: string, find: () => T): T {
  const value = known.get(key);
  if (value !== undefined) return value;
  const found = find();
  known.set(key, found);
  return found;
}

// LIBVIRT_FWI is empty while its network is down, and full again when it comes up: the place before it is the right one
// already.
const FINAL: ReadonlyMap<string, Fate> = new Map([
  ["REJECT", "rejected"],
  ["DROP", "rejected"],
  ["LIBVIRT_FWI", "rejected"],
  ["ACCEPT", "accepted"],
  ["RETURN", "returned"],
]);

/** Where a rule sends all that goes to a bridge, whatever it is. */
interface Step {
  readonly target: string;
  readonly isGoto: boolean;
  /** Absent: whatever goes anywhere. */
  readonly bridge?: string;
}

const NO_CONDITION: ReadonlySet<string> = new Set(["-j", "-g", "--comment", "--reject-with"]);

/** @returns undefined for one that concerns only some of it, or leads to a chain of ours */
function toStep(rule: RuleText): Step | undefined {
  const target = targetOf(rule);
  if (target === undefined || isOwnedChain(target)) return undefined;
  const options = splitOptions(rule);
  const conditions = options.filter(
    ({ flag, values: [value] }) => !NO_CONDITION.has(flag) && !(flag === "-m" && value === "comment"),
  );
  const isGoto = options.some(({ flag }) => flag === "-g");
  const [first, second] = conditions;
  if (first === undefined) return { target, isGoto };
  const {
    flag,
    negated,
    values: [bridge],
  } = first;
  if (second !== undefined || flag !== "-o" || negated || bridge === undefined) return undefined;
  return { target, isGoto, bridge };
}
