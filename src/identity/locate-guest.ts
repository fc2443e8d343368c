import type { Family, Ip } from "../net/address.ts";
import { isGuestMac, stillAnswers } from "./choose-lease.ts";
import { nicsOn, locateByMacs, findUnreadableNetwork, keepIncumbent } from "./locate-by-mac.ts";
import type { LookupResult, Incumbent, LookupContext } from "./lookup.ts";
import { isLive } from "../leases/lease.ts";
import { checkGuestAddress, checkNotOwn } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import type { Guest } from "../config/port-map.ts";
import { printable } from "../sanitize.ts";
import { describeLeases, leasesOn } from "../leases/usable-leases.ts";

/** Which address a guest has now. */
export function locateGuest(
  guest: Guest,
  family: Family,
  incumbent: Incumbent | undefined,
  context: LookupContext,
): LookupResult {
  const networks = context.networks.filter(
    (each) => guest.network === undefined || each.bridge === guest.network,
  );
  if (networks.length === 0)
    return {
      state: "network-down",
      why:
        guest.network === undefined
          ? "no network of libvirt's is there"
          : `network ${guest.network} is not there`,
    };
  const up = networks.filter((network) => network.subnets.length > 0);
  if (up.length === 0) return { state: "network-down", why: networks.map(describeDown).join(", ") };
  const { identity } = guest;
  switch (identity.kind) {
    case "address":
      return findAddress(identity.address, up, context);
    case "mac":
      return locateByMacs(nicsOn(up, [identity.mac]), family, up, incumbent, context);
    case "domain":
      return findDomain(identity.domain, family, networks, incumbent, context);
    case "hostname":
      return findHostname(identity.hostname, family, up, incumbent, context);
  }
}

/** Of a network that libvirt stopped its files remain. */
function describeDown({ bridge, leases, domains }: Network): string {
  const isKnown = leases !== undefined || domains !== undefined;
  return `network ${bridge} ${isKnown ? "is down" : "is not there (yet): no bridge of that name is up"}`;
}

function findAddress(
  address: Ip,
  up: readonly Network[],
  { ownAddresses: own }: LookupContext,
): LookupResult {
  const refusal = up.map((network) => checkGuestAddress(address, network));
  const why = checkNotOwn(address, own);
  if (refusal.includes(undefined))
    return why === undefined ? { state: "found", lease: { address } } : { state: "network-down", why };
  return { state: "network-down", why: `address ${address}: ${refusal.join("; ")}` };
}

function findDomain(
  domain: string,
  family: Family,
  networks: readonly Network[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): LookupResult {
  const up = networks.filter((network) => network.subnets.length > 0);
  const lists = (network: Network): boolean => network.domains?.some((row) => row.domain === domain) ?? false;
  const rows = up.flatMap((network) => network.domains ?? []).filter((row) => row.domain === domain);
  if (rows.length === 0) {
    const down = networks.find((network) => network.subnets.length === 0 && lists(network));
    if (down !== undefined) return { state: "network-down", why: `network ${down.bridge} is down` };
    const unread = findUnreadableNetwork(up, incumbent, "domains");
    if (unread !== undefined)
      return { state: "unreadable", why: `libvirt's list of domains on ${unread.bridge} cannot be read` };
    return {
      state: "absent",
      why: `guest is off: libvirt has no running domain "${printable(domain)}" here`,
    };
  }
  // A MAC of the domain counts only on the bridge that it is plugged into.
  const plugged = up.filter((network) => rows.some((row) => row.bridge === network.bridge));
  const found = locateByMacs(rows, family, plugged, incumbent, context);
  return context.running?.has(domain) === false ? doubtRow(found, domain, plugged, context) : found;
}

/** libvirt leaves the row of a domain that ended while its network was down: one that does not run must answer. */
function doubtRow(
  found: LookupResult,
  domain: string,
  networks: readonly Network[],
  context: LookupContext,
): LookupResult {
  if (found.state !== "found") return found;
  const { address, mac } = found.lease;
  const network = networks.find((each) => checkGuestAddress(address, each) === undefined);
  if (network !== undefined && mac !== undefined) {
    const { bridge } = network;
    if (isGuestMac(context.ask({ bridge, address }), { mac, bridge }, context)) return found;
  }
  const why = `guest is off: libvirt still lists domain "${printable(domain)}" here, but does not run it`;
  return { state: "absent", why };
}

function findHostname(
  hostname: string,
  family: Family,
  up: readonly Network[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): LookupResult {
  const named = leasesOn(context.leases.named(hostname), up, family);
  const claimants = [...new Set(named.map((lease) => lease.mac))];
  // dnsmasq hands a name to whoever asked last: the incumbent keeps the forward while it has a live lease at all.
  const incumbentMac = incumbent?.mac;
  if (incumbentMac !== undefined && leasesOn(context.leases.ofMac(incumbentMac), up, family).length > 0) {
    const rivals = named.filter((lease) => lease.mac !== incumbentMac);
    const found = locateByMacs(nicsOn(up, [incumbentMac]), family, up, incumbent, context);
    if (found.state !== "found" || rivals.length === 0) return found;
    return {
      ...found,
      note: `conflict: the name is also claimed by ${describeLeases(rivals)}, which changes nothing`,
    };
  }
  // Who cannot be seen at the moment has not given up the name.
  const unread = findUnreadableNetwork(up, incumbent, "leases");
  if (unread !== undefined)
    return { state: "unreadable", why: `the lease file of ${unread.bridge} cannot be read` };
  const down = context.networks.find((network) => isDownWith(network, incumbent, context.nowMs));
  if (down !== undefined) return { state: "network-down", why: `network ${down.bridge} is down` };
  // Its lease may have been released by somebody else, to get at the name.
  if (incumbent !== undefined && claimants.length > 0 && stillAnswers(incumbent, context))
    return keepIncumbent(
      incumbent,
      `conflict: its lease vanished, but ${incumbent.mac} still answers; the name is also claimed by ${describeLeases(named)}, which changes nothing`,
    );
  if (claimants.length > 1)
    return {
      state: "network-down",
      why: `conflict: ${describeLeases(named)} claim this name; use \`mac\` or \`domain\` instead`,
    };
  if (claimants.length === 0) {
    return { state: "lease-missing", why: `no live lease with hostname "${printable(hostname)}"` };
  }
  return locateByMacs(nicsOn(up, claimants), family, up, incumbent, context);
}

/** Whether the incumbent has a lease on a network that is down now. */
function isDownWith(network: Network, incumbent: Incumbent | undefined, nowMs: number): boolean {
  return (
    network.subnets.length === 0 &&
    network.leases?.some(
      (lease) => lease.mac === incumbent?.mac && lease.address === incumbent.address && isLive(lease, nowMs),
    ) === true
  );
}
