import { memoize } from "../memoize.ts";
import { isOwnedChain, splitOptions, targetOf } from "./ruleset.ts";
import type { Chains, Jump, RuleOption, RuleText } from "./ruleset.ts";

/** @returns a test for the rules of the chain that must not precede this one */
export function findObstacles(jump: Jump, chains: Chains, policyDrops: boolean): (rule: RuleText) => boolean {
  const { mustPrecedeRejectsFor: rejected, mustPrecedeAcceptsFor: guarded } = jump;
  if (rejected !== undefined) return findRejects(rejected, chains, policyDrops);
  return (rule) => guarded !== undefined && mayLetPast(rule, guarded);
}

const GOES_ON_OR_DROPS: ReadonlySet<string> = new Set(
  "DROP CT NOTRACK TRACE LOG NFLOG MARK CONNMARK SET".split(" "),
);

/** Whether packets from the bridge may pass without reaching the rules behind this one; a foreign chain may do anything. */
function mayLetPast(rule: RuleText, bridge: string): boolean {
  const target = targetOf(rule);
  if (target === undefined || GOES_ON_OR_DROPS.has(target)) return false;
  const link = splitOptions(rule).find(({ flag }) => flag === "-i");
  return link === undefined || isLink(link, bridge);
}

/** Whether `-i` or `-o` matches this bridge: `virbr+` matches every name that begins with `virbr`. */
function isLink({ negated, values: [name = ""] }: RuleOption, bridge: string): boolean {
  const matches = name.endsWith("+") ? bridge.startsWith(name.slice(0, -1)) : name === bridge;
  return matches !== negated;
}

/** What becomes of every new connection to a bridge that reaches a rule or a chain. */
type Fate = "rejected" | "accepted" | "returned" | "goes on";

/**
 * Finds the rules of a built-in chain that reject every new connection to one of the bridges: REJECT or DROP without a
 * condition other than `-o` for the bridge; a jump to a chain that does so before it accepts or returns, such as
 * libvirt's LIBVIRT_FWI; or a return to the policy DROP. Each rule is parsed once, and each chain walked once per bridge.
 */
function findRejects(
  bridges: readonly string[],
  chains: Chains,
  policyDrops: boolean,
): (rule: RuleText) => boolean {
  const stepOf = memoize(toStep);
  const walks = bridges.map((bridge) => {
    const fates = new Map<string, Fate>();
    const fateIn = (chain: string): Fate => {
      const known = fates.get(chain);
      if (known !== undefined) return known;
      // Ends a walk in a circle of chains, which the kernel does not allow.
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
      const step = stepOf(rule);
      if (step === undefined || (step.link !== undefined && !isLink(step.link, bridge))) return "goes on";
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

// LIBVIRT_FWI is empty while its network is down and rejects again when the network comes up: our jump precedes it in
// both states.
const FINAL: ReadonlyMap<string, Fate> = new Map([
  ["REJECT", "rejected"],
  ["DROP", "rejected"],
  ["LIBVIRT_FWI", "rejected"],
  ["ACCEPT", "accepted"],
  ["RETURN", "returned"],
]);

/** A rule that matches everything that goes to a bridge. */
interface Step {
  readonly target: string;
  readonly isGoto: boolean;
  /** Its `-o`; undefined: it matches packets to every interface. */
  readonly link: RuleOption | undefined;
}

const NO_CONDITION: ReadonlySet<string> = new Set(["-j", "-g", "--comment", "--reject-with"]);

/** @returns undefined for a rule that matches only some packets, or jumps to a chain of ours */
function toStep(rule: RuleText): Step | undefined {
  const target = targetOf(rule);
  if (target === undefined || isOwnedChain(target)) return undefined;
  const options = splitOptions(rule);
  const conditions = options.filter(
    ({ flag, values: [value] }) => !NO_CONDITION.has(flag) && !(flag === "-m" && value === "comment"),
  );
  const isGoto = options.some(({ flag }) => flag === "-g");
  const [link, second] = conditions;
  if (link === undefined) return { target, isGoto, link };
  return second === undefined && link.flag === "-o" ? { target, isGoto, link } : undefined;
}
