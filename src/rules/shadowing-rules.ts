import { distinctBy } from "../distinct-by.ts";
import { familyOf, formatPorts, isLoopback } from "../net/address.ts";
import type { Family, Ip, HostAddresses } from "../net/address.ts";
import { printable } from "../sanitize.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import { isOwnedChain, isOwnedRule, targetOf } from "./ruleset.ts";
import type { Actual } from "./ruleset.ts";
import { findDecidingRules } from "./trace.ts";
import type { DecidingRule, ForwardPackets } from "./trace.ts";
import { createError, createWarning } from "../diagnostic.ts";
import type { Diagnostic } from "../diagnostic.ts";

/*
 * The first rule of nat PREROUTING that redirects or accepts a new connection decides. A rule that an old rc.local or
 * Docker inserted before our jump has the port. kvmnatd leaves the rule in place, because another program owns it, and
 * reports it: the forward receives none of the packets that it matches.
 *
 * A rule that names no port counts only if it matches everything that comes to an address of the host: a rule that lets
 * an interface or a set pass is an administrator's intention.
 */

export interface ShadowingRules {
  readonly problems: readonly Diagnostic[];
  /** Forwards that receive no packet at all, with the reason. */
  readonly taken: ReadonlyMap<ResolvedForward, string>;
}

/** Maximum number of rules to report one by one: a program that inserted more has inserted them all there. */
const MAX_REPORTED_RULES = 8;

/**
 * Finds foreign rules that keep packets to published ports from kvmnatd's rules.
 * @param actual the rules of this family
 * @param forwards those of the other family are ignored
 * @param host addresses of the host's interfaces
 */
export function findShadowingRules(
  actual: Actual | undefined,
  forwards: readonly ResolvedForward[],
  host: HostAddresses,
  family: Family,
): ShadowingRules {
  const rules = actual?.tables.nat.get("PREROUTING") ?? [];
  const jump = rules.findIndex((rule) => isOwnedRule(rule) && isOwnedChain(targetOf(rule) ?? ""));
  if (actual === undefined || jump < 1) return { problems: [], taken: new Map() };
  const addresses = [...host.values()].flat().filter((ip) => familyOf(ip) === family && !isLoopback(ip));
  const packets = forwards.flatMap((forward) => packetsOf(forward, family, addresses));
  const found = findDecidingRules(actual.tables.nat, rules.slice(0, jump), packets);
  const reported = distinctBy(found, ({ rule }) => rule);
  const problems = reported.slice(0, MAX_REPORTED_RULES).map((each) => describe(family, each));
  return {
    problems: reported.length > MAX_REPORTED_RULES ? [...problems, MORE] : problems,
    taken: new Map(found.flatMap(({ taken }) => taken.map((forward) => [forward, TAKEN] as const))),
  };
}

const TAKEN = "a rule of another program stands before kvmnatd's and has the port";
const MORE = createWarning(
  "rule-shadowed",
  "more rules of other programs stand before kvmnatd's in nat PREROUTING",
);

function describe(family: Family, { rule, forwards, taken }: DecidingRule): Diagnostic {
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

/** @returns the packets that clients send to a forward; nothing for a pending one */
function packetsOf(
  resolved: ResolvedForward,
  family: Family,
  addresses: readonly Ip[],
): readonly ForwardPackets[] {
  const { forward, hostAddresses, target } = resolved;
  if (resolved.family !== family || target === undefined) return [];
  const destinations = hostAddresses.length === 0 ? addresses : hostAddresses.filter((ip) => !isLoopback(ip));
  const { protocol, published } = forward;
  return destinations.length === 0 ? [] : [{ resolved, protocol, published, destinations, isWhole: true }];
}
