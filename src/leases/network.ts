import { cidrContains, familyOf, formatCidr, isReservedIn } from "../net/address.ts";
import type { Cidr, Ip, HostAddresses } from "../net/address.ts";
import type { DomainMacs, Lease } from "./lease.ts";

/** A libvirt network as it is now, known by its bridge. */
export interface Network {
  readonly bridge: string;
  /** Empty while the bridge is not there or has no address: the network is down. */
  readonly subnets: readonly Subnet[];
  /** Undefined while the file could not be read. */
  readonly leases: readonly Lease[] | undefined;
  readonly domains: readonly DomainMacs[] | undefined;
}

export interface Subnet {
  readonly cidr: Cidr;
  /** The bridge's own address in it. */
  readonly own: Ip;
}

/** Why an address cannot be a guest's on this network; undefined when it can. */
export function checkGuestAddress(address: Ip, network: Network): string | undefined {
  const family = familyOf(address);
  const subnets = network.subnets.filter((subnet) => subnet.cidr.family === family);
  const subnet = subnets.find((each) => cidrContains(each.cidr, address));
  if (subnet === undefined) {
    const known = subnets.map((each) => formatCidr(each.cidr)).join(", ");
    return `outside ${network.bridge}'s ${known === "" ? `subnets (it has no IPv${family} address)` : known}`;
  }
  if (subnets.some((each) => each.own === address)) return `it is ${network.bridge}'s own address`;
  if (isReservedIn(subnet.cidr, address))
    return `it is the network or broadcast address of ${formatCidr(subnet.cidr)}`;
  return undefined;
}

/** The networks on which an address can be a guest's. */
export function networksOf(address: Ip, networks: readonly Network[]): readonly Network[] {
  return networks.filter((network) => checkGuestAddress(address, network) === undefined);
}

/** Which link has an address of the host. */
export type OwnAddresses = ReadonlyMap<Ip, string>;

export function findOwnAddresses(host: HostAddresses): OwnAddresses {
  return new Map(
    [...host].flatMap(([link, addresses]) => addresses.map((address) => [address, link] as const)),
  );
}

/** Why a forward must not lead to an address: a forward to the host's own address would bypass the INPUT chain. */
export function checkNotOwn(address: Ip, own: OwnAddresses): string | undefined {
  const link = own.get(address);
  return link === undefined ? undefined : `${address} is the host's own, on ${link}`;
}
