import { isOwnedChain, splitOptions, targetOf } from "./ruleset.ts";
import type { Chains, Jump, RuleOption, RuleText } from "./ruleset.ts";

/** Tells which rules must not stand before this one. */
export function findObstacles(jump: Jump, chains: Chains, policyDrops: boolean): (rule: RuleText) => boolean {
  const { mustPrecedeRejectsFor: rejected, mustPrecedeAcceptsFor: guarded } = jump;
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
  const link = splitOptions(rule).find(({ flag }) => flag === "-i");
  return link === undefined || isLink(link, bridge);
}

/** Whether `-i` or `-o` means this bridge: `virbr+` is each whose name begins so. */
function isLink({ negated, values: [name = ""] }: RuleOption, bridge: string): boolean {
  const matches = name.endsWith("+") ? bridge.startsWith(name.slice(0, -1)) : name === bridge;
  return matches !== negated;
}

/** What becomes of every new connection to a bridge that comes to a rule, or into a chain. */
type Fate = "rejected" | "accepted" | "returned" | "goes on";

/**
 * Tells whether a rule of a built-in chain would reject every new connection to one of the bridges: REJECT or DROP
 * without a condition (or with no other than `-o` that means the bridge), a jump to a chain that does so before it accepts or returns, as
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
      if (step === null || (step.link !== undefined && !isLink(step.link, bridge))) return "goes on";
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
  /** `-o`; absent: whatever goes anywhere. */
  readonly link?: RuleOption;
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
  const [link, second] = conditions;
  if (link === undefined) return { target, isGoto };
  return second === undefined && link.flag === "-o" ? { target, isGoto, link } : undefined;
}
