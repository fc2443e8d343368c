import { familyOf } from "../net/address.ts";
import type { Family } from "../net/address.ts";
import { indexLeases } from "./lease-index.ts";
import type { LeaseIndex } from "./lease-index.ts";
import { isLive } from "./lease.ts";
import type { Lease } from "./lease.ts";
import { checkGuestAddress, checkNotOwn } from "./network.ts";
import type { Network, OwnAddresses } from "./network.ts";
import { checkNicBridge } from "./nic-bridges.ts";
import type { NicBridges } from "./nic-bridges.ts";

/** The facts that decide whether a lease can be used. */
export interface LeaseContext {
  readonly networks: readonly Network[];
  readonly nicBridges: NicBridges;
  readonly ownAddresses: OwnAddresses;
  readonly nowMs: number;
}

/**
 * Indexes the live leases at addresses that can be a guest's. Two MACs can have a row for one address: libvirt's helper
 * never writes this, but a newline in a host name does. The order of the rows means nothing: it changes with every event.
 */
export function indexUsable(context: LeaseContext): LeaseIndex {
  const networks = new Map(context.networks.map((each) => [each.bridge, each]));
  return indexLeases(context.networks, (lease) => {
    const network = networks.get(lease.bridge);
    return (
      network !== undefined &&
      isLive(lease, context.nowMs) &&
      checkLease(lease, network, context) === undefined
    );
  });
}

/** Why a lease's address cannot be its guest's; undefined when it can. */
export function checkLease(
  lease: Lease,
  network: Network,
  { nicBridges, ownAddresses }: Pick<LeaseContext, "nicBridges" | "ownAddresses">,
): string | undefined {
  return (
    checkNicBridge(lease, nicBridges) ??
    checkGuestAddress(lease.address, network) ??
    checkNotOwn(lease.address, ownAddresses)
  );
}

/** The leases on these networks in this family. */
export function leasesOn(
  leases: readonly Lease[],
  networks: readonly Network[],
  family: Family,
): readonly Lease[] {
  const bridges = new Set(networks.map(({ bridge }) => bridge));
  return leases.filter(({ bridge, address }) => bridges.has(bridge) && familyOf(address) === family);
}

/** `MAC at ADDRESS and ...`, four at most, sorted: the order of the rows changes whenever a guest renews its lease. */
export function describeLeases(leases: readonly Lease[]): string {
  const all = leases.map((lease) => `${lease.mac} at ${lease.address}`).toSorted();
  return all.slice(0, 4).join(" and ") + (all.length > 4 ? ` and ${all.length - 4} more` : "");
}
