import type { Family, Ip } from "../net/address.ts";
import { isGuests, stillAnswers } from "./choose-lease.ts";
import { cardsOn, findByMacs, findUnreadHome, keepIncumbent } from "./locate-by-mac.ts";
import type { Finding, Holder, World } from "./lookup.ts";
import { isLive } from "../leases/lease.ts";
import { refuseAddress, refuseOwn } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import type { Guest } from "../config/port-map.ts";
import { printable } from "../sanitize.ts";
import { describeLeases, leasesOn } from "../leases/usable-leases.ts";

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
    if (isGuests(world.ask({ bridge, address }), { mac, bridge }, world)) return found;
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
  const named = leasesOn(world.leases.named(hostname), up, family);
  const claimants = [...new Set(named.map((lease) => lease.mac))];
  // dnsmasq hands a name to whoever asked last: the incumbent keeps the forward while it has a live lease at all.
  const incumbent = holder?.mac;
  if (incumbent !== undefined && leasesOn(world.leases.ofMac(incumbent), up, family).length > 0) {
    const rivals = named.filter((lease) => lease.mac !== incumbent);
    const found = findByMacs(cardsOn(up, [incumbent]), family, up, holder, world);
    if (found.state !== "found" || rivals.length === 0) return found;
    return {
      ...found,
      note: `conflict: the name is also claimed by ${describeLeases(rivals)}, which changes nothing`,
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
    return keepIncumbent(
      holder,
      `conflict: its lease vanished, but ${holder.mac} still answers; the name is also claimed by ${describeLeases(named)}, which changes nothing`,
    );
  if (claimants.length > 1)
    return {
      state: "down",
      why: `conflict: ${describeLeases(named)} claim this name; use \`mac\` or \`domain\` instead`,
    };
  if (claimants.length === 0) {
    return { state: "vanished", why: `no live lease with hostname "${printable(hostname)}"` };
  }
  return findByMacs(cardsOn(up, claimants), family, up, holder, world);
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
