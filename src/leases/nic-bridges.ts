import type { Mac } from "../net/address.ts";
import type { Lease } from "./lease.ts";
import type { Network } from "./network.ts";

/** On which bridges libvirt has a MAC plugged in. One that it lists nowhere may be on any. */
export type NicBridges = ReadonlyMap<Mac, ReadonlySet<string>>;

/** @param networks all that are served, those that are down as well */
export function findNicBridges(networks: readonly Network[]): NicBridges {
  const nicBridges = new Map<Mac, Set<string>>();
  for (const { bridge, domains = [] } of networks)
    for (const mac of domains.flatMap((row) => row.macs))
      nicBridges.set(mac, (nicBridges.get(mac) ?? new Set()).add(bridge));
  return nicBridges;
}

/** Why a MAC's lease on this bridge is not its own; undefined when it may be. */
export function checkNicBridge(
  { mac, bridge }: Pick<Lease, "mac" | "bridge">,
  nicBridges: NicBridges,
): string | undefined {
  const bridges = nicBridges.get(mac);
  if (bridges === undefined || bridges.has(bridge)) return undefined;
  return `it is on ${bridge}, but libvirt has ${mac} plugged into ${[...bridges].toSorted().join(", ")}`;
}
