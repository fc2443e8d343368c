import type { Family, Ip } from "../net/address.ts";
import { isAnsweredByGuest } from "./candidates.ts";
import { nicsOn, locateByMacs, findUnreadableNetwork, keepAnswering } from "./locate-by-mac.ts";
import type { Search } from "./locate-by-mac.ts";
import { createFound } from "./lookup.ts";
import type { LookupResult, Incumbent, Located, LookupContext } from "./lookup.ts";
import { createConflict, createNetworkDown, createReason } from "./reason.ts";
import { isLive } from "../leases/lease.ts";
import type { Lease } from "../leases/lease.ts";
import { checkGuestAddress, checkNotOwn, networksOf } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import type { Guest } from "../config/port-map.ts";
import { printable } from "../sanitize.ts";
import { describeLeases, leasesOn } from "../leases/usable-leases.ts";

/**
 * Which address a guest has now.
 * @param incumbent the outcome of the pass before, in this family
 * @returns what is known of the guest, and the probes that would confirm or change it
 */
export function locateGuest(
  guest: Guest,
  family: Family,
  incumbent: Incumbent | undefined,
  context: LookupContext,
): Located {
  const networks = context.networks.filter(
    (each) => guest.network === undefined || each.bridge === guest.network,
  );
  const up = networks.filter((network) => network.subnets.length > 0);
  if (up.length === 0) return toNetworkDown(describeAllDown(networks, guest));
  const located = locateByIdentity(guest, networks, { family, networks: up, incumbent, context });
  if (located.state !== "lease-missing" || incumbent === undefined) return located;
  const note = createReason(`its lease vanished, but ${incumbent.mac} still answers there: kept`);
  const { kept, probes } = keepAnswering(incumbent, note, context);
  return { ...(kept ?? located), probes: [...probes, ...located.probes] };
}

function locateByIdentity({ identity }: Guest, networks: readonly Network[], search: Search): Located {
  switch (identity.kind) {
    case "address":
      return { ...locateAddress(identity.address, search), probes: [] };
    case "mac":
      return locateByMacs(nicsOn(search.networks, [identity.mac]), search);
    case "domain":
      return locateDomain(identity.domain, networks, search);
    case "hostname":
      return locateHostname(identity.hostname, search);
  }
}

function withoutProbes(state: "absent" | "unreadable", why: string): Located {
  return { state, why: createReason(why), probes: [] };
}

function toNetworkDown(text: string): Located {
  return { state: "network-down", why: createNetworkDown(text), probes: [] };
}

function describeAllDown(networks: readonly Network[], { network }: Guest): string {
  if (networks.length > 0) return networks.map(describeDown).join(", ");
  return network === undefined ? "no network of libvirt's is there" : `network ${network} is not there`;
}

/** libvirt keeps the files of a stopped network. */
function describeDown({ bridge, leases, domains }: Network): string {
  const isKnown = leases !== undefined || domains !== undefined;
  return `network ${bridge} ${isKnown ? "is down" : "is not there (yet): no bridge of that name is up"}`;
}

function locateAddress(address: Ip, { networks, context }: Search): LookupResult {
  const refusals = networks.map((network) => checkGuestAddress(address, network));
  const why = refusals.includes(undefined)
    ? checkNotOwn(address, context.ownAddresses)
    : `address ${address}: ${refusals.join("; ")}`;
  return why === undefined
    ? createFound({ address, mac: undefined, expiresAtMs: undefined })
    : { state: "address-refused", why: createReason(why) };
}

/** @param all the guest's networks, those that are down as well */
function locateDomain(domain: string, all: readonly Network[], search: Search): Located {
  const { networks: up, incumbent, context } = search;
  const isListed = (network: Network): boolean =>
    network.domains?.some((row) => row.domain === domain) ?? false;
  const rows = up.flatMap((network) => network.domains ?? []).filter((row) => row.domain === domain);
  if (rows.length === 0) {
    const down = all.find((network) => network.subnets.length === 0 && isListed(network));
    if (down !== undefined) return toNetworkDown(`network ${down.bridge} is down`);
    const unread = findUnreadableNetwork(up, incumbent, "domains");
    if (unread !== undefined)
      return withoutProbes("unreadable", `libvirt's list of domains on ${unread.bridge} cannot be read`);
    const why = `guest is off: libvirt has no running domain "${printable(domain)}" here`;
    return withoutProbes("absent", why);
  }
  // A MAC of the domain counts only on the bridge that its NIC is plugged into.
  const networks = up.filter((network) => rows.some((row) => row.bridge === network.bridge));
  const located = locateByMacs(rows, { ...search, networks });
  return context.running?.has(domain) === false
    ? demandAnswer(located, domain, { ...search, networks })
    : located;
}

/**
 * libvirt leaves the row of a domain that ended while its network was down. A domain that does not run must answer at
 * its address.
 */
function demandAnswer(located: Located, domain: string, { networks, context }: Search): Located {
  if (located.state !== "found") return located;
  const { address, mac } = located.target;
  const [network] = networksOf(address, networks);
  const own = network === undefined ? [] : [{ bridge: network.bridge, address }];
  const probes = located.probes.length === 0 ? own : located.probes;
  if (mac !== undefined && own.some((place) => isAnsweredByGuest({ ...place, mac }, context)))
    return { ...located, probes };
  const why = `guest is off: libvirt still lists domain "${printable(domain)}" here, but does not run it`;
  return { state: "absent", why: createReason(why), probes };
}

/** dnsmasq gives a name to the guest that requested it last: the incumbent keeps the forward while it has a lease. */
function locateHostname(hostname: string, search: Search): Located {
  const { family, networks, incumbent, context } = search;
  const named = leasesOn(context.leases.named(hostname), networks, family);
  if (incumbent?.mac !== undefined) {
    const own = leasesOn(context.leases.ofMac(incumbent.mac), networks, family);
    if (own.length > 0) return locateIncumbent(incumbent.mac, named, search);
  }
  // An incumbent whose network cannot be read or is down has not given up the name.
  const unread = findUnreadableNetwork(networks, incumbent, "leases");
  if (unread !== undefined)
    return withoutProbes("unreadable", `the lease file of ${unread.bridge} cannot be read`);
  const down = context.networks.find((network) => isDownWith(network, incumbent, context.nowMs));
  if (down !== undefined) return toNetworkDown(`network ${down.bridge} is down`);
  if (named.length === 0) {
    const why = `no live lease with hostname "${printable(hostname)}"`;
    return { state: "lease-missing", why: createReason(why), isContested: false, probes: [] };
  }
  const claimed = locateClaimant(named, search);
  if (incumbent === undefined) return claimed;
  // Another guest may have released the incumbent's lease to get the name.
  const note = `its lease vanished, but ${incumbent.mac} still answers; the name is also claimed by ${describeLeases(named)}, which changes nothing`;
  const { kept, probes } = keepAnswering(incumbent, createConflict(note), context);
  return { ...(kept ?? claimed), probes: [...probes, ...claimed.probes] };
}

function locateIncumbent(
  mac: NonNullable<Incumbent["mac"]>,
  named: readonly Lease[],
  search: Search,
): Located {
  const located = locateByMacs(nicsOn(search.networks, [mac]), search);
  const rivals = named.filter((lease) => lease.mac !== mac);
  if (located.state !== "found" || rivals.length === 0) return located;
  const note = createConflict(`the name is also claimed by ${describeLeases(rivals)}, which changes nothing`);
  return { ...located, note };
}

function locateClaimant(named: readonly Lease[], search: Search): Located {
  const macs = [...new Set(named.map(({ mac }) => mac))];
  if (macs.length === 1) return locateByMacs(nicsOn(search.networks, macs), search);
  const why = createConflict(`${describeLeases(named)} claim this name; use \`mac\` or \`domain\` instead`);
  return { state: "name-conflict", why, probes: [] };
}

/** Whether the incumbent has a lease on a network that is down now. */
function isDownWith(network: Network, incumbent: Incumbent | undefined, nowMs: number): boolean {
  if (network.subnets.length > 0 || network.leases === undefined) return false;
  return network.leases.some(
    (lease) => lease.mac === incumbent?.mac && lease.address === incumbent.address && isLive(lease, nowMs),
  );
}
