import { cidrContains, formatPorts, isLoopback, parseCidr } from "./address.ts";
import type { Cidr, Family, Ip } from "./address.ts";
import type { HostAddresses } from "./network.ts";
import { printable } from "./printable.ts";
import type { ResolvedForward } from "./publish.ts";
import { isOwnedChain, isOwnedRule, splitOptions, targetOf } from "./ruleset.ts";
import type { Actual, Chains, RuleText } from "./ruleset.ts";
import type { Problem } from "./status.ts";

/*
 * The first rule of nat PREROUTING that redirects a new connection, or accepts it, decides. Whoever inserts one before
 * our jump has the port: an old line of rc.local, Docker. It is theirs, and stays; but the forward gets nothing of
 * what it matches, and nothing else tells.
 */

/** A rule of others that decides, and the forwards that it may decide for. */
interface RuleBefore {
  readonly rule: RuleText;
  readonly forwards: readonly ResolvedForward[];
}

/** What of a rule's conditions can be compared with a forward. */
interface Condition {
  /** Absent: any. */
  readonly protocol?: string;
  /** Inclusive; absent: any. */
  readonly ports?: readonly (readonly [first: number, last: number])[];
  readonly destinations: readonly { readonly cidr: Cidr; readonly negated: boolean }[];
  /** Nothing else keeps a packet to the host from matching. */
  readonly isWhole: boolean;
}

const DECIDES: ReadonlySet<string> = new Set(["DNAT", "REDIRECT", "ACCEPT"]);
const COMPARED: ReadonlySet<string> = new Set(["-p", "-d", "--dport", "--dports", "--dst-type"]);
const NO_CONDITION: ReadonlySet<string> = new Set(
  "-m -j -g --comment --to-destination --to-ports --random --persistent".split(" "),
);
/** More are counted: a program that has put so many before ours has put them all there. */
const TOLD = 10;

/**
 * Rules of others that keep packets to published ports from kvmnatd's. One that names no port counts only if it matches
 * whatever comes to an address of the host: who lets an interface or a set past means to.
 * @param actual of this family
 * @param forwards those of other families are left out
 * @param host addresses of the host's interfaces
 */
export function findRulesBefore(
  actual: Actual | undefined,
  forwards: readonly ResolvedForward[],
  host: HostAddresses,
  family: Family,
): readonly Problem[] {
  const active = forwards.filter((each) => each.family === family && each.target !== undefined);
  const addresses = [...host.values()].flat().filter((ip) => !isLoopback(ip));
  const rules = actual === undefined ? [] : rulesBefore(actual.tables.nat, active, addresses);
  const messages = [...new Set(rules.map((each) => tell(family, each)))];
  const more = messages.length - TOLD;
  return [
    ...messages.slice(0, TOLD),
    ...(more > 0 ? [`${more} more rules of other programs stand before kvmnatd's in nat PREROUTING`] : []),
  ].map((message): Problem => ({ code: "rule-before", message, severity: "warning" }));
}

function tell(family: Family, { rule, forwards }: RuleBefore): string {
  const names = forwards.map(
    ({ forward: { guest, published, protocol } }) =>
      `guest ${printable(guest)} (port ${formatPorts(published)}/${protocol})`,
  );
  const shown = names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
  const command = `${family === 4 ? "iptables" : "ip6tables"} -t nat -A ${printable(rule, 300)}`;
  return `a rule of another program stands before kvmnatd's, and what it matches does not reach ${shown}: \`${command}\``;
}

/** In the order in which packets come to them. */
function rulesBefore(
  chains: Chains,
  forwards: readonly ResolvedForward[],
  addresses: readonly Ip[],
): readonly RuleBefore[] {
  const rules = chains.get("PREROUTING") ?? [];
  const jump = rules.findIndex((rule) => isOwnedRule(rule) && isOwnedChain(targetOf(rule) ?? ""));
  const found: RuleBefore[] = [];
  // Chains in circles are not allowed by the kernel; but what was read may have changed meanwhile.
  const within = new Set<string>();
  /** @param deciding whether a rule without conditions would decide here */
  const walk = (
    chain: string,
    list: readonly RuleText[],
    coming: readonly ResolvedForward[],
    deciding: boolean,
  ): void => {
    for (const rule of list) {
      const target = targetOf(rule);
      const behind = target === undefined || isOwnedChain(target) ? undefined : chains.get(target);
      if (target === undefined || (behind === undefined && !DECIDES.has(target))) continue;
      const condition = readCondition(rule);
      const matched = coming.filter((forward) => mayMatch(condition, forward, addresses));
      if (matched.length === 0) continue;
      const decides = condition.ports !== undefined || (deciding && condition.isWhole);
      if (behind !== undefined && !within.has(target)) {
        within.add(target);
        walk(target, behind, matched, decides);
        within.delete(target);
      } else if (behind === undefined && decides) found.push({ rule: `${chain} ${rule}`, forwards: matched });
    }
  };
  walk("PREROUTING", rules.slice(0, Math.max(jump, 0)), forwards, true);
  return found;
}

function readCondition(rule: RuleText): Condition {
  const options = splitOptions(rule);
  const protocol = options.find(({ flag }) => flag === "-p");
  const ports = options.find(({ flag }) => flag === "--dport" || flag === "--dports");
  const destinations = options.flatMap(({ flag, negated, values: [text = ""] }) => {
    const cidr = flag === "-d" ? parseCidr(text) : undefined;
    return cidr === undefined ? [] : [{ cidr, negated }];
  });
  // All but these ports, or all but this protocol: like a rule that names none.
  const isNamed = ports !== undefined && !ports.negated;
  const name = protocol?.negated === false && protocol.values[0] !== "all" ? protocol.values[0] : undefined;
  return {
    ...(name === undefined ? {} : { protocol: name }),
    ...(isNamed ? { ports: (ports.values[0] ?? "").split(",").map(readRange) } : {}),
    destinations,
    isWhole: options.every(
      ({ flag, negated }) => NO_CONDITION.has(flag) || (COMPARED.has(flag) && (!negated || flag === "-d")),
    ),
  };
}

function readRange(text: string): readonly [number, number] {
  const [first = 0, last = first] = text.split(":").map(Number);
  return [first, last];
}

function mayMatch(
  { protocol, ports, destinations }: Condition,
  { forward, hostAddresses }: ResolvedForward,
  addresses: readonly Ip[],
): boolean {
  if (protocol !== undefined && protocol !== forward.protocol) return false;
  const { first, last } = forward.published;
  if (ports?.every(([from, to]) => to < first || from > last) === true) return false;
  const asked = hostAddresses.length === 0 ? addresses : hostAddresses;
  return (
    destinations.length === 0 ||
    asked.some((ip) => destinations.every(({ cidr, negated }) => cidrContains(cidr, ip) !== negated))
  );
}
