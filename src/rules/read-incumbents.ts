import type { Family } from "../net/address.ts";
import { createIncumbent } from "../identity/lookup.ts";
import type { Incumbent } from "../identity/lookup.ts";
import { parseDnatRule } from "./dnat-rule.ts";
import { guestKey, encodeOwnerName, sharedComment } from "./ownership.ts";
import type { PortMap } from "../config/port-map.ts";
import type { Actual, Chains, RuleText } from "./ruleset.ts";
import { commentOf, isOwnedChain, optionOf } from "./ruleset.ts";

/**
 * Reads the incumbents back from kvmnatd's own rules in the kernel, so that they outlive the daemon.
 * Rules that were edited so that they make no sense are ignored.
 */
export function readIncumbents(portMap: PortMap, actual: ReadonlyMap<Family, Actual>): readonly Incumbent[] {
  const names = new Map(portMap.guests.map((guest) => [encodeOwnerName(guest.name), guest.name]));
  const incumbents = new Map<string, Incumbent>();
  for (const [family, { tables }] of actual)
    for (const text of findOwnedRules(tables.nat)) {
      const rule = parseDnatRule(text);
      const guest = names.get(rule?.owner.name ?? "");
      if (rule === undefined || guest === undefined) continue;
      const { identity, mac } = rule.owner;
      const address = rule.destination;
      incumbents.set(guestKey(family, guest), createIncumbent({ guest, identity, address, mac }));
    }
  return [...incumbents.values()];
}

function findOwnedRules(chains: Chains): readonly RuleText[] {
  return [...chains].flatMap(([chain, rules]) => (isOwnedChain(chain) ? rules : []));
}

/** Reads the bridges of the served networks back from kvmnatd's own rules in the kernel. */
export function readServedBridges(actual: ReadonlyMap<Family, Actual>): ReadonlySet<string> {
  const bridges = new Set<string>();
  for (const { tables } of actual.values())
    for (const rule of [...findOwnedRules(tables.filter), ...findOwnedRules(tables.nat)]) {
      const bridge = optionOf(rule, "-o");
      if (bridge !== undefined && commentOf(rule) === sharedComment(bridge)) bridges.add(bridge);
    }
  return bridges;
}
