import { cidrContains, familyOf, formatPorts, isLoopback, parseCidr, parsePorts } from "../net/address.ts";
import type { Cidr, Family, Ip, PortRange, HostAddresses } from "../net/address.ts";
import { printable } from "../sanitize.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import { isOwnedChain, isOwnedRule, splitOptions, targetOf } from "./ruleset.ts";
import type { Actual, Chains, RuleText } from "./ruleset.ts";
import { createError, createWarning } from "../diagnostic.ts";
import type { Diagnostic } from "../diagnostic.ts";

/*
 * The first rule of nat PREROUTING that redirects a new connection, or lets it go as it is, decides. Whoever inserts one
 * before our jump has the port: an old line of rc.local, Docker. It is theirs, and stays; but the forward gets nothing of
 * what it matches, and nothing else tells.
 *
 * A rule that names no port counts only if it matches whatever comes to an address of the host: who lets an interface or
 * a set past means to.
 */

export interface ShadowingRules {
  readonly problems: readonly Diagnostic[];
  /** Forwards that get nothing at all, and why. */
  readonly taken: ReadonlyMap<ResolvedForward, string>;
}

/** A rule of others that decides for these forwards. */
interface RuleBefore {
  readonly rule: RuleText;
  readonly forwards: readonly ResolvedForward[];
  /** Those among them of which it leaves nothing. */
  readonly taken: readonly ResolvedForward[];
}

/** More are not told one by one: a program that has put so many before ours has put them all there. */
const TOLD = 8;

/**
 * Rules of others that keep packets to published ports from kvmnatd's.
 * @param actual of this family
 * @param forwards those of other families are left out
 * @param host addresses of the host's interfaces
 */
export function findShadowingRules(
  actual: Actual | undefined,
  forwards: readonly ResolvedForward[],
  host: HostAddresses,
  family: Family,
): ShadowingRules {
  const rules = actual?.tables.nat.get(BASE) ?? [];
  const jump = rules.findIndex((rule) => isOwnedRule(rule) && isOwnedChain(targetOf(rule) ?? ""));
  if (actual === undefined || jump < 1) return { problems: [], taken: new Map() };
  const addresses = [...host.values()].flat().filter((ip) => familyOf(ip) === family && !isLoopback(ip));
  const coming = forwards.flatMap((forward) => toComing(forward, family, addresses));
  const found = walkChains(actual.tables.nat, rules.slice(0, jump), coming);
  const told = new Map(found.map((each): [string, Diagnostic] => [each.rule, tell(family, each)]));
  return {
    problems: [...[...told.values()].slice(0, TOLD), ...(told.size > TOLD ? [MORE] : [])],
    taken: new Map(found.flatMap(({ taken }) => taken.map((forward) => [forward, TAKEN] as const))),
  };
}

const TAKEN = "a rule of another program stands before kvmnatd's and has the port";
const MORE = createWarning(
  "rule-shadowed",
  "more rules of other programs stand before kvmnatd's in nat PREROUTING",
);

function tell(family: Family, { rule, forwards, taken }: RuleBefore): Diagnostic {
  const command = `\`${family === 4 ? "iptables" : "ip6tables"} -t nat -A ${printable(rule, 300)}\``;
  const what =
    taken.length > 0
      ? `a rule of another program stands before kvmnatd's and has the port of ${list(taken)}`
      : `a rule of another program stands before kvmnatd's, and what it matches does not reach ${list(forwards)}`;
  const message = `${what}: ${command}; delete it where it is made, and here with -D for -A, or publish another port`;
  return taken.length > 0 ? createError("rule-shadowed", message) : createWarning("rule-shadowed", message);
}

function list(forwards: readonly ResolvedForward[]): string {
  const names = forwards.map(
    ({ forward: { guest, published, protocol } }) =>
      `guest ${printable(guest)} (${formatPorts(published)}/${protocol})`,
  );
  return names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
}

/** A forward on its way through the chains. */
interface Coming {
  readonly resolved: ResolvedForward;
  readonly protocol: string;
  readonly published: PortRange;
  /** Addresses of the host at which others ask for it. */
  readonly asked: readonly Ip[];
  /** Whether no rule on the way here has let only some of it come. */
  readonly isWhole: boolean;
}

function toComing(resolved: ResolvedForward, family: Family, addresses: readonly Ip[]): readonly Coming[] {
  const { forward, hostAddresses, target } = resolved;
  if (resolved.family !== family || target === undefined) return [];
  const asked = hostAddresses.length === 0 ? addresses : hostAddresses.filter((ip) => !isLoopback(ip));
  const { protocol, published } = forward;
  return asked.length === 0 ? [] : [{ resolved, protocol, published, asked, isWhole: true }];
}

/** So many rules are looked at: chains that lead to each other in many ways have no end. */
const LOOKED_AT = 20_000;
const DECIDES: ReadonlySet<string> = new Set(["DNAT", "REDIRECT", "NETMAP", "ACCEPT"]);

/** @param before the rules of PREROUTING that stand before our jump */
function walkChains(
  chains: Chains,
  before: readonly RuleText[],
  forwards: readonly Coming[],
): readonly RuleBefore[] {
  const found: RuleBefore[] = [];
  const isPublished = markPorts(forwards);
  const hosts = new Set(forwards.flatMap(({ asked }) => asked));
  let looked = 0;

  /**
   * @param isNamed whether a rule on the way here has named a port, or was for whatever comes to the host
   * @returns those of what arrives of which nothing comes back
   */
  function walk(
    chain: string,
    rules: readonly RuleText[],
    arriving: readonly Coming[],
    isNamed: boolean,
  ): ReadonlySet<ResolvedForward> {
    const decided = new Set<ResolvedForward>();
    let coming = arriving;
    for (const rule of rules) {
      looked += 1;
      if (coming.length === 0 || looked > LOOKED_AT) break;
      if (!mayConcern(rule, isPublished, hosts)) continue;
      const { target = "", isGoto, condition } = readRule(rule);
      const behind = isOwnedChain(target) ? undefined : chains.get(target);
      // Both lead back to the chain before; before this one there is none.
      const leaves = target === "RETURN" || isGoto;
      if (behind === undefined && !leaves && !DECIDES.has(target)) continue;
      const matched = coming.flatMap((each) => match(condition, each));
      if (matched.length === 0) continue;
      const counts = condition.ports !== undefined || (isNamed && condition.isWhole);
      const all = matched.filter(({ isAll }) => isAll).map(({ resolved }) => resolved);
      let left: readonly ResolvedForward[] = all;
      if (leaves ? chain === BASE : behind === undefined) {
        if (counts) found.push(toRuleBefore(`${chain} ${rule}`, matched));
        for (const each of all) decided.add(each);
      } else if (behind !== undefined) {
        const within = walk(target, behind, matched, counts);
        const ended = all.filter((each) => within.has(each));
        for (const each of ended) decided.add(each);
        if (!isGoto) left = ended;
      }
      const gone = new Set(left);
      coming = coming.filter(({ resolved }) => !gone.has(resolved));
    }
    return decided;
  }
  walk(BASE, before, forwards, true);
  return found;
}

const BASE = "PREROUTING";

function toRuleBefore(rule: RuleText, matched: readonly Coming[]): RuleBefore {
  return {
    rule,
    forwards: matched.map(({ resolved }) => resolved),
    taken: matched.filter(({ isWhole }) => isWhole).map(({ resolved }) => resolved),
  };
}

/** What of a rule's conditions can be compared with a forward. */
interface Condition {
  readonly protocol?: { readonly name: string; readonly negated: boolean };
  readonly ports?: { readonly ranges: readonly PortRange[]; readonly negated: boolean };
  readonly destinations: readonly { readonly cidr: Cidr; readonly negated: boolean }[];
  /** False: what it matches comes to no address of the host. */
  readonly isLocal: boolean;
  /** Nothing else keeps a packet to the host from matching. */
  readonly isWhole: boolean;
}

const COMPARED: ReadonlySet<string> = new Set(["-p", "-d", "--dport", "--dports", "--dst-type"]);
const NO_CONDITION: ReadonlySet<string> = new Set(
  "-j -g --comment --to --to-destination --to-ports --random --random-fully --persistent".split(" "),
);
/** Modules that ask nothing of a packet but by their options. */
const BY_OPTIONS: ReadonlySet<string> = new Set(["comment", "tcp", "udp", "sctp", "multiport", "addrtype"]);

function readRule(rule: RuleText): {
  readonly target: string | undefined;
  readonly isGoto: boolean;
  readonly condition: Condition;
} {
  const options = splitOptions(rule);
  const find = (...flags: readonly string[]): (typeof options)[number] | undefined =>
    options.find(({ flag }) => flags.includes(flag));
  const [protocol, ports, type] = [find("-p"), find("--dport", "--dports"), find("--dst-type")];
  const [name = "all"] = protocol?.values ?? [];
  const target = find("-j", "-g");
  return {
    target: target?.values[0],
    isGoto: target?.flag === "-g",
    condition: {
      ...(protocol === undefined || name === "all" ? {} : { protocol: { name, negated: protocol.negated } }),
      ...(ports === undefined
        ? {}
        : {
            ports: {
              ranges: (ports.values[0] ?? "").split(",").map((range) => parsePorts(range, ":")),
              negated: ports.negated,
            },
          }),
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

/** What of a forward goes where a rule says. */
interface Matched extends Coming {
  /** Whether that is all that has come to the rule. */
  readonly isAll: boolean;
}

/** @returns nothing when nothing does */
function match(condition: Condition, coming: Coming): readonly Matched[] {
  const { protocol, ports, destinations, isLocal, isWhole } = condition;
  if (!isLocal || (protocol !== undefined && (protocol.name === coming.protocol) === protocol.negated))
    return [];
  const { first, last } = coming.published;
  const overlaps = ports?.ranges.some((range) => range.first <= last && range.last >= first);
  const contains = ports?.ranges.some((range) => range.first <= first && range.last >= last);
  if (ports !== undefined && (ports.negated ? contains : !overlaps) === true) return [];
  const asked = coming.asked.filter((ip) =>
    destinations.every(({ cidr, negated }) => cidrContains(cidr, ip) !== negated),
  );
  if (asked.length === 0) return [];
  const allPorts = ports === undefined || (ports.negated ? !overlaps : contains);
  const isAll = isWhole && allPorts === true && asked.length === coming.asked.length;
  return [{ ...coming, asked, isAll, isWhole: coming.isWhole && isAll }];
}

/** Which ports are published at all. */
function markPorts(forwards: readonly Coming[]): Uint8Array {
  const marks = new Uint8Array(65_536);
  for (const { published } of forwards) marks.fill(1, published.first, published.last + 1);
  return marks;
}

const ONE_HOST = /^-d ([\d.]+)\/32 /;
/** As iptables-save prints it; of a negated one a `!` stands between. */
const ONE_PORT = / -m (?:tcp|udp|sctp) --dport (\d+) /;

/** A test that costs little: kube-proxy has a rule for each of thousands of services of its own. */
function mayConcern(rule: RuleText, isPublished: Uint8Array, hosts: ReadonlySet<string>): boolean {
  const host = ONE_HOST.exec(rule)?.[1];
  if (host !== undefined && !hosts.has(host)) return false;
  const port = ONE_PORT.exec(rule)?.[1];
  return port === undefined || isPublished[Number(port)] === 1;
}
