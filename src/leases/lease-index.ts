import { distinctBy } from "../distinct-by.ts";
import type { Ip, Mac } from "../net/address.ts";
import { memoize } from "../memoize.ts";
import type { Lease } from "./lease.ts";
import type { Network } from "./network.ts";

/** Leases of all networks, indexed by MAC, host name and address. Only `rowsOf` includes unusable leases. */
export interface LeaseIndex {
  rowsOf(mac: Mac): readonly Lease[];
  ofMac(mac: Mac): readonly Lease[];
  /** By the name that the guests sent; case does not matter. */
  named(hostname: string): readonly Lease[];
  at(place: NetworkAddress): readonly Lease[];
}

/** An address on a network. Two networks can have the same subnet. */
export interface NetworkAddress {
  readonly bridge: string;
  readonly address: Ip;
}

export function networkAddressKey({ bridge, address }: NetworkAddress): string {
  return `${address} ${bridge}`;
}

/**
 * Built once per resolution: there may be as many guests as leases. A hostile guest can have 60,000 leases that no
 * lookup needs, so a lease is checked when a lookup finds it, and the result is kept.
 */
export function indexLeases(networks: readonly Network[], isUsable: (lease: Lease) => boolean): LeaseIndex {
  const rows = networks.flatMap((network) => network.leases ?? []);
  const byMac = Map.groupBy(rows, (lease) => lease.mac);
  const byName = Map.groupBy(rows, (lease) => lease.hostname?.toLowerCase());
  const byPlace = Map.groupBy(rows, networkAddressKey);
  const usable = (found: readonly Lease[] = []): readonly Lease[] =>
    distinctBy(found.filter(isUsable), leaseKey);
  return {
    rowsOf: (mac) => byMac.get(mac) ?? [],
    ofMac: memoize((mac: Mac) => usable(byMac.get(mac))),
    named: (hostname) => usable(byName.get(hostname.toLowerCase())),
    at: memoize((place: NetworkAddress) => usable(byPlace.get(networkAddressKey(place))), networkAddressKey),
  };
}

function leaseKey(lease: Lease): string {
  return `${networkAddressKey(lease)} ${lease.mac}`;
}
