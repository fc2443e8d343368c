import type { Family } from "../net/address.ts";
import type { Incumbent } from "../identity/lookup.ts";
import { ownerName, parseOwner, sharedComment } from "./ownership.ts";
import type { PortMap } from "../config/port-map.ts";
import type { Actual } from "./ruleset.ts";
import { commentOf, destinationOf, isOwnedChain, optionOf } from "./ruleset.ts";

/**
 * Who holds the forwards, as the kernel's own rules say it: this is how incumbents outlive the daemon.
 * Rules that were edited by hand so that they make no sense are passed over.
 */
export function readIncumbents(portMap: PortMap, actual: ReadonlyMap<Family, Actual>): readonly Incumbent[] {
  const names = new Map(portMap.guests.map((guest) => [ownerName(guest.name), guest.name]));
  const incumbents = new Map<string, Incumbent>();
  for (const [family, { tables }] of actual) {
    const rules = [...tables.nat].flatMap(([chain, own]) => (isOwnedChain(chain) ? own : []));
    for (const rule of rules) {
      const owner = parseOwner(commentOf(rule) ?? "");
      const guest = owner === undefined ? undefined : names.get(owner.name);
      const address = destinationOf(rule);
      if (owner === undefined || guest === undefined || address === undefined) continue;
      const { identity, mac } = owner;
      incumbents.set(`${family} ${guest}`, {
        guest,
        identity,
        address,
        ...(mac === undefined ? {} : { mac }),
      });
    }
  }
  return [...incumbents.values()];
}

/** Bridges of the networks that are served, as the kernel's own rules say it. */
export function readServedBridges(actual: ReadonlyMap<Family, Actual>): ReadonlySet<string> {
  const served = new Set<string>();
  for (const { tables } of actual.values()) {
    const chains = [...tables.filter, ...tables.nat];
    const rules = chains.flatMap(([chain, own]) => (isOwnedChain(chain) ? own : []));
    for (const rule of rules) {
      const bridge = optionOf(rule, "-o");
      if (bridge !== undefined && commentOf(rule) === sharedComment(bridge)) served.add(bridge);
    }
  }
  return served;
}
