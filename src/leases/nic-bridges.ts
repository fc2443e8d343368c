import type { Mac } from "../net/address.ts";
import type { Lease } from "./lease.ts";
import type { Network } from "./network.ts";

/** The bridges into which libvirt has plugged each MAC. A MAC that libvirt does not list can be on any bridge. */
export type NicBridges = ReadonlyMap<Mac, ReadonlySet<string>>;

/** @param networks all served networks, including those that are down */
export function findNicBridges(networks: readonly Network[]): NicBridges {
  const nicBridges = new Map<Mac, Set<string>>();
  for (const { bridge, domains = [] } of networks)
    for (const mac of domains.flatMap((row) => row.macs))
      nicBridges.set(mac, (nicBridges.get(mac) ?? new Set()).add(bridge));
  return nicBridges;
}

/** Why a lease on this bridge cannot belong to its MAC; undefined when it can. */
export function checkNicBridge(
  { mac, bridge }: Pick<Lease, "mac" | "bridge">,
  nicBridges: NicBridges,
): string | undefined {
  const bridges = nicBridges.get(mac);
  if (bridges === undefined || bridges.has(bridge)) return undefined;
  return `it is on ${bridge}, but libvirt has ${mac} plugged into ${[...bridges].toSorted().join(", ")}`;
}
