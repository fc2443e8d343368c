import { parsePorts } from "../net/address.ts";
import type { Family, Ip, PortRange } from "../net/address.ts";
import type { PortTarget } from "../forwards/resolved-forward.ts";
import { destinationOf, optionOf, targetOf } from "../rules/ruleset.ts";
import type { FamilyChange } from "../rules/diff.ts";

/** Ports whose connections may lead elsewhere than they should, in one family. */
export interface SuspectPorts {
  readonly ports: readonly { readonly protocol: string; readonly range: PortRange }[];
  /** Where they led until now. */
  readonly formerTargets: ReadonlySet<Ip>;
}

/**
 * What a pass leaves in doubt.
 * @param before where the forwards led until then: somebody else may have removed their rules first
 * @param now where they lead since
 */
export function suspectsAfter(
  changes: readonly FamilyChange[],
  before: readonly PortTarget[],
  now: readonly PortTarget[],
  family: Family,
): SuspectPorts {
  const rules = changes.flatMap(({ family: own, change }) =>
    own === family && change.table === "nat" && "rule" in change ? [change] : [],
  );
  const leading = rules.filter(({ rule }) => targetOf(rule) === "DNAT");
  const touched: SuspectPorts = {
    ports: leading.flatMap(({ rule }) => {
      const ports = optionOf(rule, "--dport");
      return ports === undefined
        ? []
        : [{ protocol: optionOf(rule, "-p") ?? "", range: parsePorts(ports, ":") }];
    }),
    formerTargets: new Set(
      leading.flatMap(({ kind, rule }) => (kind === "remove" ? (destinationOf(rule) ?? []) : [])),
    ),
  };
  // A jump or an exception decides for all ports.
  const rest =
    leading.length < rules.length
      ? allSuspects(before, now, family)
      : toDoubt(endedLeads(before, now, family));
  return mergeSuspects([touched, rest]);
}

/** Nothing is known of what came before: every port, whether it is published still or was. */
export function allSuspects(
  before: readonly PortTarget[],
  now: readonly PortTarget[],
  family: Family,
): SuspectPorts {
  const ports = now.filter((each) => each.family === family);
  return mergeSuspects([{ ports, formerTargets: new Set() }, toDoubt(endedLeads(before, now, family))]);
}

/** All of them; a port that is in several is in the outcome once, however often they could not be looked at. */
export function mergeSuspects(doubts: readonly SuspectPorts[]): SuspectPorts {
  const ports = doubts
    .flatMap((doubt) => doubt.ports)
    .map(({ protocol, range }) => [`${protocol} ${range.first} ${range.last}`, { protocol, range }] as const);
  return {
    ports: [...new Map(ports).values()],
    formerTargets: new Set(doubts.flatMap(({ formerTargets }) => [...formerTargets])),
  };
}

function toDoubt(leads: readonly PortTarget[]): SuspectPorts {
  return { ports: leads, formerTargets: new Set(leads.map(({ address }) => address)) };
}

function endedLeads(
  before: readonly PortTarget[],
  now: readonly PortTarget[],
  family: Family,
): readonly PortTarget[] {
  const there = new Set(now.map(keyOf));
  return before.filter((each) => each.family === family && !there.has(keyOf(each)));
}

function keyOf({ family, protocol, range, address }: PortTarget): string {
  return [family, protocol, range.first, range.last, address].join(" ");
}
