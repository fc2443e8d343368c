import { familyOf, formatPorts, isLoopback, LOOPBACK, formatHostPort } from "../net/address.ts";
import type { Family, Ip, HostAddresses } from "../net/address.ts";
import { lastStartingBy } from "../config/overlaps.ts";
import type { Forward, PortMap } from "../config/port-map.ts";
import { printable } from "../sanitize.ts";
import type { Listen } from "../config/values/listen-address.ts";

/** An address where the port is another forward's. */
export interface Taken {
  readonly address: Ip;
  readonly by: Forward;
}

/** Where on the host a forward is published, in one family. */
interface ListenAssignment {
  readonly any: boolean;
  /** Those that it is published on by name; none while it has no place at all. */
  readonly addresses: readonly Ip[];
  readonly taken: readonly Taken[];
  /** Where else it is not published though the config says so, and why. */
  readonly notes: readonly string[];
}

/** A forward has no place in a family that it is not published in. */
export type ListenAssignments = ReadonlyMap<Forward, Readonly<Partial<Record<Family, ListenAssignment>>>>;

export type Where = Pick<PortMap, "guests" | "reach">;

/**
 * Port map x addresses of the moment -> where each forward is published.
 *
 * A port of an address is one forward's: of several that want it, as an interface and an address may, the first in the
 * config has it. With reach.loopback 127.0.0.1 is had in the same way by who names it, else by the first of the others.
 */
export function assignHostAddresses({ guests, reach }: Where, host: HostAddresses): ListenAssignments {
  const local = new Set([...host.values()].flat());
  const claim = createPortReservations();
  const find = (forward: Forward, family: Family): ListenAssignment | undefined => {
    const wanted = forward.listen.flatMap((each) => placeOf(each, family, host, local, reach.loopback) ?? []);
    return wanted.length === 0 ? undefined : reservePorts(forward, merge(wanted), claim);
  };
  const forwards = guests.flatMap((guest) => guest.forwards);
  const places = forwards.map((forward) => ({ forward, ipv4: find(forward, 4), ipv6: find(forward, 6) }));
  const naming = new Set(
    places.flatMap(({ forward, ipv4 }) => (ipv4?.addresses.includes(LOOPBACK) ? [forward] : [])),
  );
  const withLoopback = (forward: Forward, place: ListenAssignment): ListenAssignment => {
    const { any, addresses, taken } = place;
    const isNowhere = addresses.length === 0 && taken.length > 0;
    if (!reach.loopback || any || isNowhere || naming.has(forward)) return place;
    const by = claim(forward, LOOPBACK);
    if (by === undefined)
      return addresses.length === 0 ? place : { ...place, addresses: [...addresses, LOOPBACK] };
    return naming.has(by) ? place : { ...place, taken: [...taken, { address: LOOPBACK, by }] };
  };
  return new Map(
    places.map(({ forward, ipv4, ipv6 }) => [
      forward,
      {
        ...(ipv4 === undefined ? {} : { 4: withLoopback(forward, ipv4) }),
        ...(ipv6 === undefined ? {} : { 6: ipv6 }),
      },
    ]),
  );
}

/** `192.168.1.100:80/tcp is published for guest web already` */
export function describeTaken({ address, by: { guest, protocol, published } }: Taken): string {
  return `${formatHostPort(address, formatPorts(published))}/${protocol} is published for guest ${printable(guest)} already`;
}

/** Takes an address's ports for a forward. @returns who has one of them, when they are not to be had */
type PortReservation = (forward: Forward, address: Ip) => Forward | undefined;

function createPortReservations(): PortReservation {
  /** Of each protocol and address who has it, by port; no two have the same. */
  const lanes = new Map<string, Forward[]>();
  return (forward, address) => {
    const key = `${forward.protocol} ${address}`;
    const lane = lanes.get(key) ?? [];
    const at = lastStartingBy(lane, forward.published.last);
    const below = lane[at];
    if (below !== undefined && below.published.last >= forward.published.first) return below;
    lane.splice(at + 1, 0, forward);
    lanes.set(key, lane);
    return undefined;
  };
}

function reservePorts(forward: Forward, place: ListenAssignment, claim: PortReservation): ListenAssignment {
  const claims = place.addresses.map((address) => ({ address, by: claim(forward, address) }));
  return {
    ...place,
    addresses: claims.flatMap(({ address, by }) => (by === undefined ? [address] : [])),
    taken: claims.flatMap(({ address, by }) => (by === undefined ? [] : [{ address, by }])),
  };
}

function placeOf(
  listen: Listen,
  family: Family,
  host: HostAddresses,
  local: ReadonlySet<Ip>,
  loopback: boolean,
): ListenAssignment | undefined {
  if (listen.kind === "interface")
    return placeOfInterface(listen.name, family, host.get(listen.name), loopback);
  if (listen.kind === "any")
    return listen.family === family ? { any: true, addresses: [], taken: [], notes: [] } : undefined;
  const { address } = listen;
  if (familyOf(address) !== family) return undefined;
  return local.has(address) || address === LOOPBACK
    ? { any: false, addresses: [address], taken: [], notes: [] }
    : absent(`address ${address}: not on this host (yet)`);
}

/** An interface counts with the families it has; one without any address yet is shown once, as IPv4, with the reason. */
function placeOfInterface(
  name: string,
  family: Family,
  own: readonly Ip[] | undefined,
  loopback: boolean,
): ListenAssignment | undefined {
  if (own === undefined) return family === 6 ? undefined : absent(`there is no interface ${name} (yet)`);
  const usable = own.filter((ip) => !isLoopback(ip) || (loopback && ip === LOOPBACK));
  const addresses = usable.filter((ip) => familyOf(ip) === family);
  if (addresses.length > 0) return { any: false, addresses, taken: [], notes: [] };
  if (usable.length > 0 || family === 6) return undefined;
  if (own.length === 0) return absent(`interface ${name} has no address (yet)`);
  const note = `interface ${name} has loopback addresses alone: of these only ${LOOPBACK} can be published, with reach.loopback: true`;
  return absent(note);
}

function absent(note: string): ListenAssignment {
  return { any: false, addresses: [], taken: [], notes: [note] };
}

function merge(places: readonly ListenAssignment[]): ListenAssignment {
  return {
    any: places.some(({ any }) => any),
    addresses: [...new Set(places.flatMap(({ addresses }) => addresses))],
    taken: [],
    notes: places.flatMap(({ notes }) => notes),
  };
}
