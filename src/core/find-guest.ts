import { familyOf } from "./address.ts";
import type { Family, Ip, Mac } from "./address.ts";
import { chooseLease, stillAnswers } from "./choose-lease.ts";
import type { Question } from "./choose-lease.ts";
import { isLive } from "./lease.ts";
import type { Lease } from "./lease.ts";
import { refuseAddress } from "./network.ts";
import type { Network } from "./network.ts";
import type { Guest } from "./port-map.ts";
import { printable } from "./printable.ts";

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
}

/** Where a forward leads. */
export interface Target {
  readonly address: Ip;
  readonly mac?: Mac;
  readonly expiresAtMs?: number;
}

export interface World {
  readonly networks: readonly Network[];
  readonly usable: readonly Lease[];
  /** Addresses that usable leases give to more than one MAC. */
  readonly contested: ReadonlySet<Ip>;
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
  Found | { readonly state: "gone" | "vanished" | "unknown" | "down" | "contested"; readonly why: string };

interface Found {
  readonly state: "found";
  readonly lease: Target;
  readonly note?: string;
  /** Others than this one could be the guest's address: to be asked again. */
  readonly inDoubt?: boolean;
  /** See {@link Holder.left}. */
  readonly left?: Ip;
}

/** Which address a guest has now. */
export function findGuest(guest: Guest, family: Family, holder: Holder | undefined, world: World): Finding {
  const networks = world.networks.filter(
    (each) => guest.network === undefined || each.bridge === guest.network,
  );
  if (networks.length === 0)
    return {
      state: "down",
      why: `network ${guest.network ?? "virbr0, or any other of libvirt,"} is not there`,
    };
  const up = networks.filter((network) => network.subnets.length > 0);
  if (up.length === 0)
    return { state: "down", why: `network ${networks.map((each) => each.bridge).join(", ")} is down` };
  const { identity } = guest;
  switch (identity.kind) {
    case "address":
      return findAddress(identity.address, up);
    case "mac":
      return findByMacs([identity.mac], family, up, holder, world);
    case "domain":
      return findDomain(identity.domain, family, networks, holder, world);
    case "hostname":
      return findHostname(identity.hostname, family, up, holder, world);
  }
}

function findAddress(address: Ip, up: readonly Network[]): Finding {
  const refusal = up.map((network) => refuseAddress(address, network));
  if (refusal.includes(undefined)) return { state: "found", lease: { address } };
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
  const macs = rows.flatMap((row) => row.macs);
  const found = findByMacs(macs, family, plugged, holder, world);
  return world.running?.has(domain) === false ? doubtRow(found, domain, plugged, world) : found;
}

/** libvirt leaves the row of a domain that ended while its network was down: one that does not run must answer. */
function doubtRow(found: Finding, domain: string, networks: readonly Network[], world: World): Finding {
  if (found.state !== "found") return found;
  const { address, mac } = found.lease;
  const network = networks.find((each) => refuseAddress(address, each) === undefined);
  if (network !== undefined && world.ask({ bridge: network.bridge, address }) === mac) return found;
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
  const named = usableLeases(up, family, world).filter((lease) => sameName(lease.hostname, hostname));
  const claimants = [...new Set(named.map((lease) => lease.mac))];
  // dnsmasq hands a name to whoever asked last: the incumbent keeps the forward while it has a live lease at all.
  const incumbent = holder?.mac;
  if (incumbent !== undefined && usableLeases(up, family, world).some((lease) => lease.mac === incumbent)) {
    const rivals = named.filter((lease) => lease.mac !== incumbent);
    const found = findByMacs([incumbent], family, up, holder, world);
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
  if (holder?.mac !== undefined && claimants.length > 0 && stillAnswers(holder, world))
    return {
      state: "found",
      lease: { address: holder.address, mac: holder.mac },
      inDoubt: true,
      note: `conflict: its lease vanished, but ${holder.mac} still answers; the name is also claimed by ${describe(named)}, which changes nothing`,
    };
  if (claimants.length > 1)
    return {
      state: "down",
      why: `conflict: ${describe(named)} claim this name; use \`mac\` or \`domain\` instead`,
    };
  if (claimants.length === 0) {
    return { state: "vanished", why: `no live lease with hostname "${printable(hostname)}"` };
  }
  return findByMacs(claimants, family, up, holder, world);
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

function findByMacs(
  macs: readonly Mac[],
  family: Family,
  networks: readonly Network[],
  holder: Holder | undefined,
  world: World,
): Finding {
  const usable = usableLeases(networks, family, world).filter((lease) => macs.includes(lease.mac));
  if (usable.length === 0) return explainAbsence(macs, family, networks, holder, world);
  // Of a guest with several NICs the one that holds the forward stays; else libvirt's order decides.
  const mac = macs.find((each) => each === holder?.mac && usable.some((lease) => lease.mac === each));
  const first = mac ?? macs.find((each) => usable.some((lease) => lease.mac === each));
  if (first === undefined) throw new Error("a usable lease belongs to one of these");
  return chooseLease(
    first,
    usable.filter((lease) => lease.mac === first),
    holder,
    world,
  );
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
  for (const network of networks) {
    for (const lease of network.leases ?? []) {
      if (!macs.includes(lease.mac) || familyOf(lease.address) !== family) continue;
      if (!isLive(lease, world.nowMs))
        return { state: "gone", why: `the lease of ${lease.address} has expired` };
      const refusal = refuseAddress(lease.address, network);
      if (refusal !== undefined)
        return { state: "gone", why: `leased address ${lease.address} refused: ${refusal}` };
    }
  }
  // A guest that got another network card has not merely lost its lease.
  const state = holder?.mac !== undefined && macs.includes(holder.mac) ? "vanished" : "gone";
  return { state, why: `no live ${family === 6 ? "IPv6 " : ""}lease of ${names}` };
}

/**
 * Live leases at addresses that can be a guest's. Once a pass: there may be as many guests as leases. Two MACs may have
 * a row for one address, which libvirt's helper never writes but a newline in a hostname does; the order of the rows
 * changes with every event, and says nothing.
 */
export function findUsableLeases(networks: readonly Network[], nowMs: number): readonly Lease[] {
  const usable = networks.flatMap((network) =>
    (network.leases ?? []).filter(
      (lease) => isLive(lease, nowMs) && refuseAddress(lease.address, network) === undefined,
    ),
  );
  return [...new Map(usable.map((lease) => [`${lease.address} ${lease.mac}`, lease])).values()];
}

/** @param usable what {@link findUsableLeases} found */
export function findContested(usable: readonly Lease[]): ReadonlySet<Ip> {
  const seen = new Set<Ip>();
  return new Set(
    usable.flatMap(({ address }) => {
      if (seen.has(address)) return [address];
      seen.add(address);
      return [];
    }),
  );
}

function usableLeases(networks: readonly Network[], family: Family, world: World): readonly Lease[] {
  const bridges = new Set(networks.map((network) => network.bridge));
  return world.usable.filter((lease) => bridges.has(lease.bridge) && familyOf(lease.address) === family);
}

function sameName(hostname: string | undefined, wanted: string): boolean {
  return hostname?.toLowerCase() === wanted.toLowerCase();
}

/** In an order of their own: that of the rows changes whenever any guest renews its lease. */
function describe(leases: readonly Lease[]): string {
  const all = leases.map((lease) => `${lease.mac} at ${lease.address}`).toSorted();
  return all.slice(0, 4).join(" and ") + (all.length > 4 ? ` and ${all.length - 4} more` : "");
}
