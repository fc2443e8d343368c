import { familyOf } from "./address.ts";
import type { Family, Ip, Mac } from "./address.ts";
import { chooseLease, isOwn, stillAnswers } from "./choose-lease.ts";
import type { Question } from "./choose-lease.ts";
import { indexLeases } from "./lease-index.ts";
import type { LeaseIndex } from "./lease-index.ts";
import { isLive } from "./lease.ts";
import type { DomainMacs, Lease } from "./lease.ts";
import { refusePlace } from "./plugs.ts";
import type { Plugs } from "./plugs.ts";
import { refuseAddress, refuseOwn } from "./network.ts";
import type { Network, OwnAddresses } from "./network.ts";
import type { Guest } from "./port-map.ts";
import { printable } from "./printable.ts";
import type { Silence } from "./silence.ts";

/** Who holds a guest's forwards now: the incumbent. Read back from the kernel at start. */
export interface Holder {
  readonly guest: string;
  /** How the guest was found then (identityText): another way of finding it starts without incumbent. */
  readonly identity: string;
  readonly address: Ip;
  /** Absent for a guest with an address of its own. */
  readonly mac?: Mac;
  /** When its lease ends, epoch ms; absent: never, or unknown. */
  readonly expiresAtMs?: number;
  /** Since when nothing vouches for it (epoch ms); absent while a live lease does. */
  readonly lostAtMs?: number;
  /** Since when it is not clear which address is the guest's (epoch ms); absent while it is. */
  readonly inDoubtSinceMs?: number;
  /** The address before, while nobody answers at this one: it may have been left wrongly. */
  readonly left?: Ip;
  /** Nobody has answered at its only address yet; absent once it did. */
  readonly silence?: Silence;
}

/** Where a forward leads. */
export interface Target {
  readonly address: Ip;
  readonly mac?: Mac;
  readonly expiresAtMs?: number;
}

export interface World {
  readonly networks: readonly Network[];
  readonly leases: LeaseIndex;
  readonly plugs: Plugs;
  readonly own: OwnAddresses;
  readonly nowMs: number;
  readonly lingerMs: number;
  /** Domains that libvirt runs; absent where it does not say. */
  readonly running?: ReadonlySet<string>;
  /** Which MAC answers at an address; undefined: none, or nobody has asked yet. */
  ask(question: Question): Mac | undefined;
}

/**
 * What is known of a guest in one family. `gone` waits for linger, `vanished` too unless the guest still answers,
 * `unknown` keeps the incumbent, `down` drops at once, `contested` too, to be asked again.
 */
export type Finding =
  | Found
  | { readonly state: "vanished"; readonly why: string; readonly askAgain?: boolean }
  | { readonly state: "gone" | "unknown" | "down" | "contested"; readonly why: string };

export interface Found {
  readonly state: "found";
  readonly lease: Target;
  readonly note?: string;
  /** Others than this one could be the guest's address: to be asked again. */
  readonly inDoubt?: boolean;
  /** See {@link Holder.left}. */
  readonly left?: Ip;
  /** See {@link Holder.silence}. */
  readonly silence?: Silence;
}

/** Which address a guest has now. */
export function findGuest(guest: Guest, family: Family, holder: Holder | undefined, world: World): Finding {
  const networks = world.networks.filter(
    (each) => guest.network === undefined || each.bridge === guest.network,
  );
  if (networks.length === 0)
    return {
      state: "down",
      why:
        guest.network === undefined
          ? "no network of libvirt's is there"
          : `network ${guest.network} is not there`,
    };
  const up = networks.filter((network) => network.subnets.length > 0);
  if (up.length === 0) return { state: "down", why: networks.map(describeDown).join(", ") };
  const { identity } = guest;
  switch (identity.kind) {
    case "address":
      return findAddress(identity.address, up, world);
    case "mac":
      return findByMacs(cardsOn(up, [identity.mac]), family, up, holder, world);
    case "domain":
      return findDomain(identity.domain, family, networks, holder, world);
    case "hostname":
      return findHostname(identity.hostname, family, up, holder, world);
  }
}

/** Of a network that libvirt stopped its files remain. */
function describeDown({ bridge, leases, domains }: Network): string {
  const isKnown = leases !== undefined || domains !== undefined;
  return `network ${bridge} ${isKnown ? "is down" : "is not there (yet): no bridge of that name is up"}`;
}

function findAddress(address: Ip, up: readonly Network[], { own }: World): Finding {
  const refusal = up.map((network) => refuseAddress(address, network));
  const why = refuseOwn(address, own);
  if (refusal.includes(undefined))
    return why === undefined ? { state: "found", lease: { address } } : { state: "down", why };
  return { state: "down", why: `address ${address}: ${refusal.join("; ")}` };
}

function findDomain(
  domain: string,
  family: Family,
  networks: readonly Network[],
  holder: Holder | undefined,
  world: World,
): Finding {
  const up = networks.filter((network) => network.subnets.length > 0);
  const lists = (network: Network): boolean => network.domains?.some((row) => row.domain === domain) ?? false;
  const rows = up.flatMap((network) => network.domains ?? []).filter((row) => row.domain === domain);
  if (rows.length === 0) {
    const down = networks.find((network) => network.subnets.length === 0 && lists(network));
    if (down !== undefined) return { state: "down", why: `network ${down.bridge} is down` };
    const unread = findUnreadHome(up, holder, "domains");
    if (unread !== undefined)
      return { state: "unknown", why: `libvirt's list of domains on ${unread.bridge} cannot be read` };
    return { state: "gone", why: `guest is off: libvirt has no running domain "${printable(domain)}" here` };
  }
  // A MAC of the domain counts only on the bridge that it is plugged into.
  const plugged = up.filter((network) => rows.some((row) => row.bridge === network.bridge));
  const found = findByMacs(rows, family, plugged, holder, world);
  return world.running?.has(domain) === false ? doubtRow(found, domain, plugged, world) : found;
}

/** libvirt leaves the row of a domain that ended while its network was down: one that does not run must answer. */
function doubtRow(found: Finding, domain: string, networks: readonly Network[], world: World): Finding {
  if (found.state !== "found") return found;
  const { address, mac } = found.lease;
  const network = networks.find((each) => refuseAddress(address, each) === undefined);
  if (network !== undefined && mac !== undefined) {
    const { bridge } = network;
    if (isOwn(world.ask({ bridge, address }), { mac, bridge }, world)) return found;
  }
  const why = `guest is off: libvirt still lists domain "${printable(domain)}" here, but does not run it`;
  return { state: "gone", why };
}

function findHostname(
  hostname: string,
  family: Family,
  up: readonly Network[],
  holder: Holder | undefined,
  world: World,
): Finding {
  const named = pick(world.leases.named(hostname), up, family);
  const claimants = [...new Set(named.map((lease) => lease.mac))];
  // dnsmasq hands a name to whoever asked last: the incumbent keeps the forward while it has a live lease at all.
  const incumbent = holder?.mac;
  if (incumbent !== undefined && pick(world.leases.ofMac(incumbent), up, family).length > 0) {
    const rivals = named.filter((lease) => lease.mac !== incumbent);
    const found = findByMacs(cardsOn(up, [incumbent]), family, up, holder, world);
    if (found.state !== "found" || rivals.length === 0) return found;
    return {
      ...found,
      note: `conflict: the name is also claimed by ${describe(rivals)}, which changes nothing`,
    };
  }
  // Who cannot be seen at the moment has not given up the name.
  const unread = findUnreadHome(up, holder, "leases");
  if (unread !== undefined)
    return { state: "unknown", why: `the lease file of ${unread.bridge} cannot be read` };
  const down = world.networks.find((network) => isDownWith(network, holder, world.nowMs));
  if (down !== undefined) return { state: "down", why: `network ${down.bridge} is down` };
  // Its lease may have been released by somebody else, to get at the name.
  if (holder !== undefined && claimants.length > 0 && stillAnswers(holder, world))
    return keep(
      holder,
      `conflict: its lease vanished, but ${holder.mac} still answers; the name is also claimed by ${describe(named)}, which changes nothing`,
    );
  if (claimants.length > 1)
    return {
      state: "down",
      why: `conflict: ${describe(named)} claim this name; use \`mac\` or \`domain\` instead`,
    };
  if (claimants.length === 0) {
    return { state: "vanished", why: `no live lease with hostname "${printable(hostname)}"` };
  }
  return findByMacs(cardsOn(up, claimants), family, up, holder, world);
}

/** The network that the incumbent is on, if libvirt's file of it cannot be read: others' files say nothing of it. */
function findUnreadHome(
  up: readonly Network[],
  holder: Holder | undefined,
  list: "leases" | "domains",
): Network | undefined {
  if (holder === undefined) return undefined;
  return up.find(
    (network) => network[list] === undefined && refuseAddress(holder.address, network) === undefined,
  );
}

/** Whether the incumbent has a lease on a network that is down now. */
function isDownWith(network: Network, holder: Holder | undefined, nowMs: number): boolean {
  return (
    network.subnets.length === 0 &&
    network.leases?.some(
      (lease) => lease.mac === holder?.mac && lease.address === holder.address && isLive(lease, nowMs),
    ) === true
  );
}

/** Network cards that a guest may have: a MAC counts on this bridge, and says nothing on any other. */
type Cards = Pick<DomainMacs, "bridge" | "macs">;

/** A guest of which no more is known than its MACs may be on any of these networks. */
function cardsOn(networks: readonly Network[], macs: readonly Mac[]): readonly Cards[] {
  return networks.map(({ bridge }) => ({ bridge, macs }));
}

/** Whether the incumbent's address is on a network where its MAC counts, if its MAC counts at all. */
function isAtHome({ mac, address }: Holder, cards: readonly Cards[], networks: readonly Network[]): boolean {
  const homes = cards.filter(({ macs }) => mac !== undefined && macs.includes(mac));
  const isHome = (network: Network): boolean => homes.some(({ bridge }) => bridge === network.bridge);
  return (
    homes.length === 0 || networks.some((each) => isHome(each) && refuseAddress(address, each) === undefined)
  );
}

/** @param networks those of the cards */
function findByMacs(
  cards: readonly Cards[],
  family: Family,
  networks: readonly Network[],
  remembered: Holder | undefined,
  world: World,
): Finding {
  const holder = remembered !== undefined && isAtHome(remembered, cards, networks) ? remembered : undefined;
  const macs = [...new Set(cards.flatMap((each) => each.macs))];
  const usable = macs
    .flatMap((mac) => pick(world.leases.ofMac(mac), networks, family))
    .filter(({ bridge, mac }) => cards.some((each) => each.bridge === bridge && each.macs.includes(mac)));
  if (usable.length === 0) return explainAbsence(macs, family, networks, holder, world);
  const holds = holder?.mac !== undefined && macs.includes(holder.mac);
  // While the incumbent is there, its MAC on another network is somebody else's.
  const homes = bridgesOf(holder, networks);
  const isAway = (lease: Lease): boolean => lease.mac === holder?.mac && !homes.has(lease.bridge);
  const away = usable.filter(isAway);
  const atHome = usable.filter((lease) => !isAway(lease));
  const isLeased = atHome.some((lease) => lease.mac === holder?.mac);
  // Its lease may have been released by somebody else.
  if (holds && !isLeased && stillAnswers(holder, world)) {
    const note = `its lease vanished, but ${holder.mac} still answers there: kept, though the guest has ${describe(usable)}`;
    return keep(holder, note);
  }
  const counting = isLeased ? atHome : usable;
  const leasesOf = (mac: Mac): readonly Lease[] => counting.filter((lease) => lease.mac === mac);
  const leased = macs.filter((mac) => leasesOf(mac).length > 0);
  // Of a guest with several NICs the one that holds the forward stays; else libvirt's order decides.
  const choose = (mac: Mac): Finding => chooseLease(mac, leasesOf(mac), holder, world);
  const held = leased.filter((mac) => mac === holder?.mac).map(choose);
  if (held[0]?.state === "found") return isLeased && away.length > 0 ? noteAway(held[0], away) : held[0];
  const findings = [...held, ...leased.filter((mac) => mac !== holder?.mac).map(choose)];
  const finding = findings.find((each) => each.state === "found") ?? findings[0];
  if (finding === undefined) throw new Error("a usable lease belongs to one of these");
  return finding;
}

/** Networks that the incumbent's address can be on. */
function bridgesOf(holder: Holder | undefined, networks: readonly Network[]): ReadonlySet<string> {
  if (holder === undefined) return new Set();
  const homes = networks.filter((each) => refuseAddress(holder.address, each) === undefined);
  return new Set(homes.map(({ bridge }) => bridge));
}

function noteAway(found: Found, away: readonly Lease[]): Found {
  const note = `conflict: ${describe(away)}, on another network, changes nothing`;
  return { ...found, note: found.note ?? note };
}

/** The incumbent stays, though its lease vanished, as long as it answers and its lease would have lasted. */
function keep({ address, mac, expiresAtMs }: Holder, note: string): Finding {
  const lease: Target = {
    address,
    ...(mac === undefined ? {} : { mac }),
    ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
  };
  return { state: "found", lease, inDoubt: true, note };
}

function explainAbsence(
  macs: readonly Mac[],
  family: Family,
  networks: readonly Network[],
  holder: Holder | undefined,
  world: World,
): Finding {
  const unread = findUnreadHome(networks, holder, "leases");
  if (unread !== undefined)
    return { state: "unknown", why: `the lease file of ${unread.bridge} cannot be read` };
  const names = macs.length === 0 ? "a guest without network card" : macs.join(", ");
  // A guest that got another network card has not merely lost its lease.
  const state = holder?.mac !== undefined && macs.includes(holder.mac) ? "vanished" : "gone";
  for (const lease of macs.flatMap((mac) => world.leases.rowsOf(mac))) {
    const network = networks.find((each) => each.bridge === lease.bridge);
    if (network === undefined || familyOf(lease.address) !== family) continue;
    const refusal = refuseLease(lease, network, world);
    if (refusal !== undefined) return { state, why: `leased address ${lease.address} refused: ${refusal}` };
    // Of another address it may be another guest's doing, and says nothing of the incumbent's.
    if (!isLive(lease, world.nowMs))
      return {
        state: lease.address === holder?.address ? "gone" : state,
        why: `the lease of ${lease.address} has expired`,
      };
  }
  return { state, why: `no live ${family === 6 ? "IPv6 " : ""}lease of ${names}` };
}

/**
 * Live leases at addresses that can be a guest's, to be looked up. Two MACs may have a row for one address, which
 * libvirt's helper never writes but a newline in a hostname does; the order of the rows changes with every event, and
 * says nothing.
 */
export function indexUsable(world: Pick<World, "networks" | "plugs" | "own" | "nowMs">): LeaseIndex {
  const networks = new Map(world.networks.map((each) => [each.bridge, each]));
  return indexLeases(world.networks, (lease) => {
    const network = networks.get(lease.bridge);
    return (
      network !== undefined && isLive(lease, world.nowMs) && refuseLease(lease, network, world) === undefined
    );
  });
}

function refuseLease(
  lease: Lease,
  network: Network,
  { plugs, own }: Pick<World, "plugs" | "own">,
): string | undefined {
  return refusePlace(lease, plugs) ?? refuseAddress(lease.address, network) ?? refuseOwn(lease.address, own);
}

function pick(leases: readonly Lease[], networks: readonly Network[], family: Family): readonly Lease[] {
  const bridges = new Set(networks.map(({ bridge }) => bridge));
  return leases.filter(({ bridge, address }) => bridges.has(bridge) && familyOf(address) === family);
}

/** In an order of their own: that of the rows changes whenever any guest renews its lease. */
function describe(leases: readonly Lease[]): string {
  const all = leases.map((lease) => `${lease.mac} at ${lease.address}`).toSorted();
  return all.slice(0, 4).join(" and ") + (all.length > 4 ? ` and ${all.length - 4} more` : "");
}
