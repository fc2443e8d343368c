import { cidrContains } from "../net/address.ts";
import type { Ip } from "../net/address.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";
import { checkGuestAddress } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import type { Guest, PortMap } from "../config/port-map.ts";

type UnservedDiagnostic = Diagnostic<"address-unserved">;

/**
 * Finds guests whose address in the config lies in no served network. Their forwards are pending.
 *
 *   inside the subnet of a network that is up               -> served, unless it is the bridge's own or reserved
 *   outside, and all networks it may belong to are up       -> a warning
 *   outside, and a network that it may belong to is down    -> unknown: no warning
 *
 * @param areAllKnown whether there are no other networks than these
 */
export function findAddressesOutsideNetworks(
  portMap: PortMap,
  networks: readonly Network[],
  areAllKnown: boolean,
): readonly UnservedDiagnostic[] {
  return portMap.guests.flatMap((guest) => checkAddress(guest, networks, areAllKnown) ?? []);
}

function checkAddress(
  guest: Guest,
  networks: readonly Network[],
  areAllKnown: boolean,
): UnservedDiagnostic | undefined {
  const { identity, where } = guest;
  if (identity.kind !== "address") return undefined;
  const { address } = identity;
  const own = networks.filter((each) => guest.network === undefined || each.bridge === guest.network);
  const up = own.filter((network) => network.subnets.length > 0);
  const reasons = up.map((network) => checkGuestAddress(address, network));
  if (reasons.includes(undefined)) return undefined;
  const areAllUp = own.length > 0 && up.length === own.length;
  const mayBeElsewhere = !areAllUp || (guest.network === undefined && !areAllKnown);
  // Two networks can have the same subnet, but rarely: an address that a network that is up refuses inside its own subnet
  // gets a warning without waiting for the others.
  if (mayBeElsewhere && !up.some((network) => isInside(address, network))) return undefined;
  const message =
    `${address} cannot be a guest's address: ${reasons.join("; ")}; ` +
    "the guest's forwards are pending until the address or the network is changed";
  return createWarning("address-unserved", message, where);
}

function isInside(address: Ip, { subnets }: Network): boolean {
  return subnets.some(({ cidr }) => cidrContains(cidr, address));
}
