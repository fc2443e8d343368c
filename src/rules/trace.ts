import { cidrContains, parseCidr, parsePorts } from "../net/address.ts";
import type { Cidr, Ip, PortRange } from "../net/address.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import { isOwnedChain, splitOptions, targetOf } from "./ruleset.ts";
import type { Chains, RuleOption, RuleText } from "./ruleset.ts";

/*
 * Follows new connections to published ports through the foreign rules of nat PREROUTING that precede our jump, and finds
 * the rules that decide for them.
 */

/** The packets of one forward, on their way through the chains. */
export interface ForwardPackets {
  readonly resolved: ResolvedForward;
  readonly protocol: string;
  readonly published: PortRange;
  /** The host's addresses that they are sent to. */
  readonly destinations: readonly Ip[];
  /** False when an earlier rule has let only some of them come here. */
  readonly isWhole: boolean;
}

/** A foreign rule that decides for the packets of these forwards. */
export interface DecidingRule {
  /** With its chain: `CHAIN RULE`. */
  readonly rule: RuleText;
  readonly forwards: readonly ResolvedForward[];
  /** The forwards of whose packets it leaves none. */
  readonly taken: readonly ResolvedForward[];
}

/** Maximum number of rules to visit: chains that jump to each other in many ways could take forever. */
const MAX_VISITED_RULES = 20_000;

const BASE = "PREROUTING";
const DECIDES: ReadonlySet<string> = new Set(["DNAT", "REDIRECT", "NETMAP", "ACCEPT"]);

/**
 * @param chains of nat
 * @param before the rules of PREROUTING that precede our jump
 * @returns the rules that decide, in the order of the walk
 */
export function findDecidingRules(
  chains: Chains,
  before: readonly RuleText[],
  packets: readonly ForwardPackets[],
): readonly DecidingRule[] {
  const walk: Walk = {
    chains,
    isPublished: markPorts(packets),
    hosts: new Set(packets.flatMap(({ destinations }) => destinations)),
    found: [],
    visited: 0,
  };
  walkChain(walk, { name: BASE, rules: before, isNamed: true }, packets);
  return walk.found;
}

interface Walk {
  readonly chains: Chains;
  /** 1 for each port that is published. */
  readonly isPublished: Uint8Array;
  readonly hosts: ReadonlySet<string>;
  readonly found: DecidingRule[];
  visited: number;
}

interface WalkedChain {
  readonly name: string;
  readonly rules: readonly RuleText[];
  /** Whether a rule on the way here has named a port, or applied to everything that comes to the host. */
  readonly isNamed: boolean;
}

/** @returns the forwards whose packets never return from this chain */
function walkChain(
  walk: Walk,
  chain: WalkedChain,
  arriving: readonly ForwardPackets[],
): ReadonlySet<ResolvedForward> {
  const decided = new Set<ResolvedForward>();
  let packets = arriving;
  for (const rule of chain.rules) {
    walk.visited += 1;
    if (packets.length === 0 || walk.visited > MAX_VISITED_RULES) break;
    if (!mayConcern(rule, walk)) continue;
    const effect = followRule(walk, chain, rule, packets);
    for (const each of effect.decided) decided.add(each);
    const left = new Set(effect.left);
    packets = left.size === 0 ? packets : packets.filter(({ resolved }) => !left.has(resolved));
  }
  return decided;
}

/** What becomes of the forwards whose packets a rule matches completely. */
interface Effect {
  /** Their packets never come back. */
  readonly decided: readonly ResolvedForward[];
  /** Their packets do not reach the next rule of the chain. */
  readonly left: readonly ResolvedForward[];
}

const NO_EFFECT: Effect = { decided: [], left: [] };

function followRule(
  walk: Walk,
  chain: WalkedChain,
  rule: RuleText,
  packets: readonly ForwardPackets[],
): Effect {
  const { target = "", isGoto, condition } = parseRule(rule);
  const subchain = isOwnedChain(target) ? undefined : walk.chains.get(target);
  // Both lead back to the calling chain, and PREROUTING has none.
  const returns = target === "RETURN" || isGoto;
  if (subchain === undefined && !returns && !DECIDES.has(target)) return NO_EFFECT;
  const matched = packets.flatMap((each) => match(condition, each));
  if (matched.length === 0) return NO_EFFECT;
  const isNamed = condition.ports !== undefined || (chain.isNamed && condition.isWhole);
  const all = matched.filter(({ isAll }) => isAll).map(({ resolved }) => resolved);
  if (returns ? chain.name === BASE : subchain === undefined) {
    if (isNamed) walk.found.push(toDecidingRule(`${chain.name} ${rule}`, matched));
    return { decided: all, left: all };
  }
  if (subchain === undefined) return { decided: [], left: all };
  const within = walkChain(walk, { name: target, rules: subchain, isNamed }, matched);
  const ended = all.filter((each) => within.has(each));
  return { decided: ended, left: isGoto ? all : ended };
}

function toDecidingRule(rule: RuleText, matched: readonly ForwardPackets[]): DecidingRule {
  return {
    rule,
    forwards: matched.map(({ resolved }) => resolved),
    taken: matched.filter(({ isWhole }) => isWhole).map(({ resolved }) => resolved),
  };
}

/** The conditions of a rule, as far as they can be compared with a forward. */
interface Condition {
  readonly protocol: { readonly name: string; readonly negated: boolean } | undefined;
  readonly ports: { readonly ranges: readonly PortRange[]; readonly negated: boolean } | undefined;
  readonly destinations: readonly { readonly cidr: Cidr; readonly negated: boolean }[];
  /** False: no packet that it matches is sent to an address of the host. */
  readonly isLocal: boolean;
  /** Whether the rule has no other condition. */
  readonly isWhole: boolean;
}

const COMPARED: ReadonlySet<string> = new Set(["-p", "-d", "--dport", "--dports", "--dst-type"]);
const NO_CONDITION: ReadonlySet<string> = new Set(
  "-j -g --comment --to --to-destination --to-ports --random --random-fully --persistent".split(" "),
);
/** Modules that only match by their options. */
const BY_OPTIONS: ReadonlySet<string> = new Set(["comment", "tcp", "udp", "sctp", "multiport", "addrtype"]);

function parseRule(rule: RuleText): {
  readonly target: string | undefined;
  readonly isGoto: boolean;
  readonly condition: Condition;
} {
  const options = splitOptions(rule);
  const find = (...flags: readonly string[]): RuleOption | undefined =>
    options.find(({ flag }) => flags.includes(flag));
  const type = find("--dst-type");
  return {
    target: targetOf(rule),
    isGoto: find("-j", "-g")?.flag === "-g",
    condition: {
      protocol: parseProtocol(find("-p")),
      ports: parsePortOption(find("--dport", "--dports")),
      destinations: options.flatMap(({ flag, negated, values: [text = ""] }) => {
        const cidr = flag === "-d" ? parseCidr(text) : undefined;
        return cidr === undefined ? [] : [{ cidr, negated }];
      }),
      isLocal: type === undefined || (type.values[0] ?? "").split(",").includes("LOCAL") !== type.negated,
      isWhole: options.every(({ flag, values: [value = ""] }) =>
        flag === "-m" ? BY_OPTIONS.has(value) : NO_CONDITION.has(flag) || COMPARED.has(flag),
      ),
    },
  };
}

function parseProtocol(option: RuleOption | undefined): Condition["protocol"] {
  const [name = "all"] = option?.values ?? [];
  return option === undefined || name === "all" ? undefined : { name, negated: option.negated };
}

function parsePortOption(option: RuleOption | undefined): Condition["ports"] {
  if (option === undefined) return undefined;
  const ranges = (option.values[0] ?? "").split(",").map((range) => parsePorts(range, ":"));
  return { ranges, negated: option.negated };
}

/** The packets of a forward that a rule matches. */
interface MatchedPackets extends ForwardPackets {
  /** Whether these are all that reached the rule. */
  readonly isAll: boolean;
}

/** @returns nothing when the rule matches none of the packets */
function match(condition: Condition, packets: ForwardPackets): readonly MatchedPackets[] {
  const { protocol, ports, isLocal, isWhole } = condition;
  if (!isLocal || (protocol !== undefined && (protocol.name === packets.protocol) === protocol.negated))
    return [];
  const { first, last } = packets.published;
  const overlaps = ports?.ranges.some((range) => range.first <= last && range.last >= first);
  const contains = ports?.ranges.some((range) => range.first <= first && range.last >= last);
  if (ports !== undefined && (ports.negated ? contains : !overlaps) === true) return [];
  const destinations = packets.destinations.filter((ip) =>
    condition.destinations.every(({ cidr, negated }) => cidrContains(cidr, ip) !== negated),
  );
  if (destinations.length === 0) return [];
  const allPorts = ports === undefined || (ports.negated ? !overlaps : contains);
  const isAll = isWhole && allPorts === true && destinations.length === packets.destinations.length;
  return [{ ...packets, destinations, isAll, isWhole: packets.isWhole && isAll }];
}

function markPorts(packets: readonly ForwardPackets[]): Uint8Array {
  const marks = new Uint8Array(65_536);
  for (const { published } of packets) marks.fill(1, published.first, published.last + 1);
  return marks;
}

const ONE_HOST = /^-d ([\d.]+)\/32 /;
/** As iptables-save prints it; a `!` stands between the words of a negated one. */
const ONE_PORT = / -m (?:tcp|udp|sctp) --dport (\d+) /;

/** A cheap test: kube-proxy has a rule for each of thousands of services. */
function mayConcern(rule: RuleText, { isPublished, hosts }: Walk): boolean {
  const host = ONE_HOST.exec(rule)?.[1];
  if (host !== undefined && !hosts.has(host)) return false;
  const port = ONE_PORT.exec(rule)?.[1];
  return port === undefined || isPublished[Number(port)] === 1;
}
