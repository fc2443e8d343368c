import { familyOf } from "../net/address.ts";
import type { Family, Mac } from "../net/address.ts";
import { chooseLease, stillAnswers } from "./choose-lease.ts";
import type { LookupResult, Found, Incumbent, Target, LookupContext } from "./lookup.ts";
import { isLive } from "../leases/lease.ts";
import type { DomainMacs, Lease } from "../leases/lease.ts";
import { checkGuestAddress } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import { describeLeases, leasesOn, checkLease } from "../leases/usable-leases.ts";

/** Network cards that a guest may have: a MAC counts on this bridge, and says nothing on any other. */
export type GuestNics = Pick<DomainMacs, "bridge" | "macs">;

/** A guest of which no more is known than its MACs may be on any of these networks. */
export function nicsOn(networks: readonly Network[], macs: readonly Mac[]): readonly GuestNics[] {
  return networks.map(({ bridge }) => ({ bridge, macs }));
}

/** Whether the incumbent's address is on a network where its MAC counts, if its MAC counts at all. */
function isAtHome(
  { mac, address }: Incumbent,
  cards: readonly GuestNics[],
  networks: readonly Network[],
): boolean {
  const homes = cards.filter(({ macs }) => mac !== undefined && macs.includes(mac));
  const isHome = (network: Network): boolean => homes.some(({ bridge }) => bridge === network.bridge);
  return (
    homes.length === 0 ||
    networks.some((each) => isHome(each) && checkGuestAddress(address, each) === undefined)
  );
}

/**
 * Which address a guest with these cards has.
 * @param networks those of the cards
 */
export function locateByMacs(
  cards: readonly GuestNics[],
  family: Family,
  networks: readonly Network[],
  remembered: Incumbent | undefined,
  context: LookupContext,
): LookupResult {
  const incumbent =
    remembered !== undefined && isAtHome(remembered, cards, networks) ? remembered : undefined;
  const macs = [...new Set(cards.flatMap((each) => each.macs))];
  const usable = macs
    .flatMap((mac) => leasesOn(context.leases.ofMac(mac), networks, family))
    .filter(({ bridge, mac }) => cards.some((each) => each.bridge === bridge && each.macs.includes(mac)));
  if (usable.length === 0) return explainAbsence(macs, family, networks, incumbent, context);
  const holds = incumbent?.mac !== undefined && macs.includes(incumbent.mac);
  // While the incumbent is there, its MAC on another network is somebody else's.
  const homes = bridgesOf(incumbent, networks);
  const isAway = (lease: Lease): boolean => lease.mac === incumbent?.mac && !homes.has(lease.bridge);
  const away = usable.filter(isAway);
  const atHome = usable.filter((lease) => !isAway(lease));
  const isLeased = atHome.some((lease) => lease.mac === incumbent?.mac);
  // Its lease may have been released by somebody else.
  if (holds && !isLeased && stillAnswers(incumbent, context)) {
    const note = `its lease vanished, but ${incumbent.mac} still answers there: kept, though the guest has ${describeLeases(usable)}`;
    return keepIncumbent(incumbent, note);
  }
  const counting = isLeased ? atHome : usable;
  const leasesOf = (mac: Mac): readonly Lease[] => counting.filter((lease) => lease.mac === mac);
  const leased = macs.filter((mac) => leasesOf(mac).length > 0);
  // Of a guest with several NICs the one that holds the forward stays; else libvirt's order decides.
  const choose = (mac: Mac): LookupResult => chooseLease(mac, leasesOf(mac), incumbent, context);
  const held = leased.filter((mac) => mac === incumbent?.mac).map(choose);
  if (held[0]?.state === "found") return isLeased && away.length > 0 ? noteAway(held[0], away) : held[0];
  const findings = [...held, ...leased.filter((mac) => mac !== incumbent?.mac).map(choose)];
  const lookup = findings.find((each) => each.state === "found") ?? findings[0];
  if (lookup === undefined) throw new Error("a usable lease belongs to one of these");
  return lookup;
}

/** Networks that the incumbent's address can be on. */
function bridgesOf(incumbent: Incumbent | undefined, networks: readonly Network[]): ReadonlySet<string> {
  if (incumbent === undefined) return new Set();
  const homes = networks.filter((each) => checkGuestAddress(incumbent.address, each) === undefined);
  return new Set(homes.map(({ bridge }) => bridge));
}

function noteAway(found: Found, away: readonly Lease[]): Found {
  const note = `conflict: ${describeLeases(away)}, on another network, changes nothing`;
  return { ...found, note: found.note ?? note };
}

/** The incumbent stays, though its lease vanished, as long as it answers and its lease would have lasted. */
export function keepIncumbent({ address, mac, expiresAtMs }: Incumbent, note: string): LookupResult {
  const lease: Target = {
    address,
    ...(mac === undefined ? {} : { mac }),
    ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
  };
  return { state: "found", lease, isAmbiguous: true, note };
}

function explainAbsence(
  macs: readonly Mac[],
  family: Family,
  networks: readonly Network[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): LookupResult {
  const unread = findUnreadableNetwork(networks, incumbent, "leases");
  if (unread !== undefined)
    return { state: "unreadable", why: `the lease file of ${unread.bridge} cannot be read` };
  const names = macs.length === 0 ? "a guest without network card" : macs.join(", ");
  // A guest that got another network card has not merely lost its lease.
  const state = incumbent?.mac !== undefined && macs.includes(incumbent.mac) ? "lease-missing" : "absent";
  for (const lease of macs.flatMap((mac) => context.leases.rowsOf(mac))) {
    const network = networks.find((each) => each.bridge === lease.bridge);
    if (network === undefined || familyOf(lease.address) !== family) continue;
    const refusal = checkLease(lease, network, context);
    if (refusal !== undefined) return { state, why: `leased address ${lease.address} refused: ${refusal}` };
    // Of another address it may be another guest's doing, and says nothing of the incumbent's.
    if (!isLive(lease, context.nowMs))
      return {
        state: lease.address === incumbent?.address ? "absent" : state,
        why: `the lease of ${lease.address} has expired`,
      };
  }
  return { state, why: `no live ${family === 6 ? "IPv6 " : ""}lease of ${names}` };
}

/** The network that the incumbent is on, if libvirt's file of it cannot be read: others' files say nothing of it. */
export function findUnreadableNetwork(
  up: readonly Network[],
  incumbent: Incumbent | undefined,
  list: "leases" | "domains",
): Network | undefined {
  if (incumbent === undefined) return undefined;
  return up.find(
    (network) => network[list] === undefined && checkGuestAddress(incumbent.address, network) === undefined,
  );
}
