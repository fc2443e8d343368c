import type { Ip, Mac } from "../net/address.ts";
import type { Lease } from "./lease.ts";
import type { Network } from "./network.ts";

/** The leases of all networks, by what they are looked for. Only `rowsOf` gives those that cannot be used, too. */
export interface LeaseIndex {
  rowsOf(mac: Mac): readonly Lease[];
  ofMac(mac: Mac): readonly Lease[];
  /** By the name that guests gave, upper or lower case. */
  named(hostname: string): readonly Lease[];
  at(place: NetworkAddress): readonly Lease[];
}

/** An address says where only together with the network: two may have the same subnet. */
export interface NetworkAddress {
  readonly bridge: string;
  readonly address: Ip;
}

export function networkAddressKey({ bridge, address }: NetworkAddress): string {
  return `${address} ${bridge}`;
}

/**
 * Made once a resolve: there may be as many guests as leases. A hostile guest can have sixty thousand leases that
 * nobody looks for, so whether one is usable is judged when it is found.
 */
export function indexLeases(networks: readonly Network[], isUsable: (lease: Lease) => boolean): LeaseIndex {
  const rows = networks.flatMap((network) => network.leases ?? []);
  const byMac = Map.groupBy(rows, (lease) => lease.mac);
  const byName = Map.groupBy(rows, (lease) => lease.hostname?.toLowerCase());
  const byPlace = Map.groupBy(rows, networkAddressKey);
  const judge = (found: readonly Lease[] = []): readonly Lease[] => distinct(found.filter(isUsable));
  return {
    rowsOf: (mac) => byMac.get(mac) ?? [],
    ofMac: remember((mac: Mac) => judge(byMac.get(mac))),
    named: (hostname) => judge(byName.get(hostname.toLowerCase())),
    at: remember((place: NetworkAddress) => judge(byPlace.get(networkAddressKey(place))), networkAddressKey),
  };
}

/** The last of rows that say the same. */
function distinct(leases: readonly Lease[]): readonly Lease[] {
  return [...new Map(leases.map((lease) => [`${networkAddressKey(lease)} ${lease.mac}`, lease])).values()];
}

function remember<Key, Value>(
  find: (key: Key) => Value,
  textOf: (key: Key) => string = String,
): (key: Key) => Value {
  const known = new Map<string, Value>();
  return (key) => {
    const text = textOf(key);
    const value = known.get(text) ?? find(key);
    known.set(text, value);
    return value;
  };
}
