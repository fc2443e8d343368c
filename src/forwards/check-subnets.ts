import { cidrContains } from "../net/address.ts";
import type { Ip } from "../net/address.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createError } from "../diagnostic.ts";
import { checkGuestAddress } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import type { Guest, PortMap } from "../config/port-map.ts";

type UnservedDiagnostic = Diagnostic<"address-unserved">;

export interface AddressesOutsideNetworks {
  readonly diagnostics: readonly UnservedDiagnostic[];
  /** False when an address may belong to a network that is down. */
  readonly isCertain: boolean;
}

/**
 * Finds addresses in the config that cannot belong to a guest on any served network.
 *
 *   in the subnet of one that is up                 -> served, unless it is the bridge's own, or reserved
 *   in none, and all it may belong to are up        -> unserved
 *   in none, and one that it may belong to is down  -> unknown
 *
 * @param areAllKnown whether there are no other networks than these
 */
export function findAddressesOutsideNetworks(
  portMap: PortMap,
  networks: readonly Network[],
  areAllKnown: boolean,
): AddressesOutsideNetworks {
  const verdicts = portMap.guests.map((guest) => judge(guest, networks, areAllKnown));
  return {
    diagnostics: verdicts.filter((verdict) => typeof verdict === "object"),
    isCertain: !verdicts.includes("unknown"),
  };
}

function judge(
  guest: Guest,
  networks: readonly Network[],
  areAllKnown: boolean,
): UnservedDiagnostic | "served" | "unknown" {
  const { identity, where } = guest;
  if (identity.kind !== "address") return "served";
  const { address } = identity;
  const own = networks.filter((each) => guest.network === undefined || each.bridge === guest.network);
  const up = own.filter((network) => network.subnets.length > 0);
  const refusals = up.map((network) => checkGuestAddress(address, network));
  if (refusals.includes(undefined)) return "served";
  const areAllUp = own.length > 0 && up.length === own.length;
  const mayBeElsewhere = !areAllUp || (guest.network === undefined && !areAllKnown);
  // No two networks share a subnet: where one has the address, no other can.
  if (mayBeElsewhere && !up.some((network) => isInside(address, network))) return "unknown";
  const message = `${address} can be no guest's: ${refusals.join("; ")}`;
  return createError("address-unserved", message, where);
}

function isInside(address: Ip, { subnets }: Network): boolean {
  return subnets.some(({ cidr }) => cidrContains(cidr, address));
}
