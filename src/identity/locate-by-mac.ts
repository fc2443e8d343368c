import { familyOf } from "../net/address.ts";
import type { Family, Mac } from "../net/address.ts";
import { findFormerAddresses, isAnsweredByGuest } from "./candidates.ts";
import { chooseLease } from "./choose-lease.ts";
import { createFound } from "./lookup.ts";
import type { Found, Incumbent, Located, LookupContext, LookupResult, NeighbourProbe } from "./lookup.ts";
import { createConflict, createReason } from "./reason.ts";
import type { Reason } from "./reason.ts";
import { isLive } from "../leases/lease.ts";
import type { DomainMacs, Lease } from "../leases/lease.ts";
import { networksOf } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import { describeLeases, leasesOn, checkLease } from "../leases/usable-leases.ts";

/*
 *   the incumbent's NIC has a lease on its network | chooseLease for this NIC; if it finds none, for the others
 *   its lease vanished, and it answers             | the incumbent stays, though others of its NICs have leases
 *   else                                           | chooseLease for each NIC in libvirt's order: the first found
 *   no NIC has a usable lease                      | explained: unreadable, lease missing or absent
 *
 * A lease of the incumbent's MAC on another network does not count while it has one on its own: another guest has taken
 * the MAC there.
 */

/** Where a guest is looked up, and what is known of it already. */
export interface Search {
  readonly family: Family;
  /** The networks that count for this guest. They are up. */
  readonly networks: readonly Network[];
  readonly incumbent: Incumbent | undefined;
  readonly context: LookupContext;
}

/** NICs of a guest. Each MAC is valid only on the given bridge. */
export type GuestNics = Pick<DomainMacs, "bridge" | "macs">;

/** The NICs of a guest of which only the MACs are known: each can be on any of these networks. */
export function nicsOn(networks: readonly Network[], macs: readonly Mac[]): readonly GuestNics[] {
  return networks.map(({ bridge }) => ({ bridge, macs }));
}

/** Which address a guest with these NICs has. */
export function locateByMacs(nics: readonly GuestNics[], wanted: Search): Located {
  const search = { ...wanted, incumbent: incumbentOf(nics, wanted) };
  const { family, networks, incumbent, context } = search;
  const macs = [...new Set(nics.flatMap((each) => each.macs))];
  const usable = macs
    .flatMap((mac) => leasesOn(context.leases.ofMac(mac), networks, family))
    .filter(({ bridge, mac }) => nics.some((each) => each.bridge === bridge && each.macs.includes(mac)));
  if (usable.length === 0) return { ...explainAbsence(macs, search), probes: [] };
  const { near, away } = divideLeases(usable, search);
  if (near.some(({ mac }) => mac === incumbent?.mac)) return noteAway(chooseNic(near, search), away);
  const chosen = chooseNic(usable, search);
  if (incumbent?.mac === undefined || !macs.includes(incumbent.mac)) return chosen;
  // Another guest may have released its lease.
  const note = `its lease vanished, but ${incumbent.mac} still answers there: kept, though the guest has ${describeLeases(usable)}`;
  const { kept, probes } = keepAnswering(incumbent, createReason(note), context);
  return { ...(kept ?? chosen), probes: [...probes, ...chosen.probes] };
}

/** The incumbent, unless its address is on a network where its MAC does not count. */
function incumbentOf(nics: readonly GuestNics[], { incumbent, networks }: Search): Incumbent | undefined {
  if (incumbent?.mac === undefined) return incumbent;
  const { mac, address } = incumbent;
  const own = nics.filter(({ macs }) => macs.includes(mac));
  const bridges = new Set(own.map(({ bridge }) => bridge));
  const isHome = networksOf(address, networks).some(({ bridge }) => bridges.has(bridge));
  return own.length === 0 || isHome ? incumbent : undefined;
}

/** Sets the leases of the incumbent's MAC apart that are on networks where its address cannot be. */
function divideLeases(
  leases: readonly Lease[],
  { incumbent, networks }: Search,
): { readonly near: readonly Lease[]; readonly away: readonly Lease[] } {
  if (incumbent === undefined) return { near: leases, away: [] };
  const homes = new Set(networksOf(incumbent.address, networks).map(({ bridge }) => bridge));
  const isAway = ({ mac, bridge }: Lease): boolean => mac === incumbent.mac && !homes.has(bridge);
  return { near: leases.filter((lease) => !isAway(lease)), away: leases.filter(isAway) };
}

/** The incumbent's NIC stays while its address is found; else libvirt's order decides. */
function chooseNic(leases: readonly Lease[], { incumbent, context }: Search): Located {
  const byMac = Map.groupBy(leases, ({ mac }) => mac);
  const choose = ([mac, own]: readonly [Mac, readonly Lease[]]): Located =>
    chooseLease(mac, own, incumbent, context);
  const [held] = [...byMac].filter(([mac]) => mac === incumbent?.mac).map(choose);
  // Without probes nothing can change this result.
  if (held?.state === "found" && held.probes.length === 0) return held;
  const others = [...byMac].filter(([mac]) => mac !== incumbent?.mac).map(choose);
  const results = held === undefined ? others : [held, ...others];
  const chosen = results.find(({ state }) => state === "found") ?? results[0];
  if (chosen === undefined) throw new Error("a guest is chosen among its leases: there are none");
  return { ...chosen, probes: results.flatMap(({ probes }) => probes) };
}

function noteAway(located: Located, away: readonly Lease[]): Located {
  if (located.state !== "found" || away.length === 0) return located;
  const note = createConflict(`${describeLeases(away)}, on another network, changes nothing`);
  return { ...located, note: located.note ?? note };
}

/**
 * Keeps an incumbent whose lease vanished before its time, as long as it answers at its address.
 * @returns the incumbent, if it answers, and the probes that this depends on
 */
export function keepAnswering(
  incumbent: Incumbent,
  note: Reason,
  context: LookupContext,
): { readonly kept: Found | undefined; readonly probes: readonly NeighbourProbe[] } {
  const former = findFormerAddresses(incumbent, context);
  const isThere = former.some((each) => isAnsweredByGuest(each, context));
  return {
    kept: isThere ? createFound(incumbent, { doubt: "ambiguous", note }) : undefined,
    probes: former.map(({ bridge, address }) => ({ bridge, address })),
  };
}

function explainAbsence(
  macs: readonly Mac[],
  { family, networks, incumbent, context }: Search,
): LookupResult {
  const unread = findUnreadableNetwork(networks, incumbent, "leases");
  if (unread !== undefined)
    return { state: "unreadable", why: createReason(`the lease file of ${unread.bridge} cannot be read`) };
  // A guest that got another NIC has not merely lost its lease.
  const isSameNic = incumbent?.mac !== undefined && macs.includes(incumbent.mac);
  const explain = (text: string): LookupResult => {
    const why = createReason(text);
    return isSameNic ? { state: "lease-missing", why, isContested: false } : { state: "absent", why };
  };
  for (const lease of macs.flatMap((mac) => context.leases.rowsOf(mac))) {
    const network = networks.find((each) => each.bridge === lease.bridge);
    if (network === undefined || familyOf(lease.address) !== family) continue;
    const refusal = checkLease(lease, network, context);
    if (refusal !== undefined) return explain(`leased address ${lease.address} refused: ${refusal}`);
    if (isLive(lease, context.nowMs)) continue;
    const why = `the lease of ${lease.address} has expired`;
    // An expired lease of another address can be forged, and does not concern the incumbent's.
    return lease.address === incumbent?.address ? { state: "absent", why: createReason(why) } : explain(why);
  }
  const names = macs.length === 0 ? "a guest without network card" : macs.join(", ");
  return explain(`no live ${family === 6 ? "IPv6 " : ""}lease of ${names}`);
}

/** The network that the incumbent is on, if libvirt's file of it cannot be read. Files of other networks do not matter. */
export function findUnreadableNetwork(
  up: readonly Network[],
  incumbent: Incumbent | undefined,
  list: "leases" | "domains",
): Network | undefined {
  if (incumbent === undefined) return undefined;
  return networksOf(incumbent.address, up).find((network) => network[list] === undefined);
}
