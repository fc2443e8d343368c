import { familyOf, formatPorts, isLoopback, LOOPBACK, formatHostPort } from "../net/address.ts";
import type { Family, Ip, HostAddresses } from "../net/address.ts";
import { lastStartingBy } from "../config/overlaps.ts";
import type { Forward, PortMap } from "../config/port-map.ts";
import { printable } from "../sanitize.ts";
import type { Listen } from "../config/values/listen-address.ts";

/** An address on which another forward has the port. */
export interface Taken {
  readonly address: Ip;
  readonly by: Forward;
}

/** Host addresses on which a forward is published, in one family. */
interface ListenAssignment {
  readonly any: boolean;
  /** The addresses that it names; empty while it has none in this family. */
  readonly addresses: readonly Ip[];
  readonly taken: readonly Taken[];
  /** Why it is not published on others that the config names. */
  readonly notes: readonly string[];
}

/** A forward has no assignment in a family in which it is not published. */
export type ListenAssignments = ReadonlyMap<Forward, Readonly<Partial<Record<Family, ListenAssignment>>>>;

export type Where = Pick<PortMap, "guests" | "reach">;

/** The host's addresses now. */
interface HostState {
  readonly byLink: HostAddresses;
  readonly local: ReadonlySet<Ip>;
  readonly reachesLoopback: boolean;
}

/**
 * Port map x addresses of the moment -> the host addresses of each forward.
 *
 * A port of an address belongs to one forward. If several forwards name it, as an interface and as an address for
 * example, it belongs to the first in the config. With reach.loopback the port on 127.0.0.1 belongs to the forward that
 * names this address, else to the first of the others.
 */
export function assignHostAddresses({ guests, reach }: Where, byLink: HostAddresses): ListenAssignments {
  const host = { byLink, local: new Set([...byLink.values()].flat()), reachesLoopback: reach.loopback };
  const reserve = createPortReservations();
  const assign = (forward: Forward, family: Family): ListenAssignment | undefined => {
    const wanted = forward.listen.flatMap((listen) => assignmentOf(listen, family, host) ?? []);
    return wanted.length === 0 ? undefined : reservePorts(forward, merge(wanted), reserve);
  };
  const assigned = guests
    .flatMap(({ forwards }) => forwards)
    .map((forward) => ({ forward, ipv4: assign(forward, 4), ipv6: assign(forward, 6) }));
  const isNamingLoopback = ({ ipv4 }: { ipv4: ListenAssignment | undefined }): boolean =>
    ipv4?.addresses.includes(LOOPBACK) === true;
  const naming = new Set(assigned.filter(isNamingLoopback).map(({ forward }) => forward));
  return new Map(
    assigned.map(({ forward, ipv4, ipv6 }) => {
      const isImplied = reach.loopback && ipv4 !== undefined && !naming.has(forward);
      const onLoopback = isImplied ? addLoopback(forward, ipv4, naming, reserve) : ipv4;
      return [
        forward,
        {
          ...(onLoopback === undefined ? {} : { 4: onLoopback }),
          ...(ipv6 === undefined ? {} : { 6: ipv6 }),
        },
      ];
    }),
  );
}

/** @param naming forwards that name 127.0.0.1: the port is theirs without a note */
function addLoopback(
  forward: Forward,
  assignment: ListenAssignment,
  naming: ReadonlySet<Forward>,
  reserve: PortReservation,
): ListenAssignment {
  const { any, addresses, taken } = assignment;
  // A forward that is published nowhere does not keep the port from the next one.
  if (any || addresses.length === 0) return assignment;
  const by = reserve(forward, LOOPBACK);
  if (by === undefined) return { ...assignment, addresses: [...addresses, LOOPBACK] };
  return naming.has(by) ? assignment : { ...assignment, taken: [...taken, { address: LOOPBACK, by }] };
}

/** `192.168.1.100:80/tcp is published for guest web already` */
export function describeTaken({ address, by: { guest, protocol, published } }: Taken): string {
  return `${formatHostPort(address, formatPorts(published))}/${protocol} is published for guest ${printable(guest)} already`;
}

/** Reserves a forward's ports on an address. @returns the forward that has one of them already */
type PortReservation = (forward: Forward, address: Ip) => Forward | undefined;

function createPortReservations(): PortReservation {
  /** The forwards of each protocol and address, by port. They do not overlap. */
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

function reservePorts(
  forward: Forward,
  assignment: ListenAssignment,
  reserve: PortReservation,
): ListenAssignment {
  const reserved = assignment.addresses.map((address) => ({ address, by: reserve(forward, address) }));
  return {
    ...assignment,
    addresses: reserved.flatMap(({ address, by }) => (by === undefined ? [address] : [])),
    taken: reserved.flatMap(({ address, by }) => (by === undefined ? [] : [{ address, by }])),
  };
}

function assignmentOf(listen: Listen, family: Family, host: HostState): ListenAssignment | undefined {
  switch (listen.kind) {
    case "interface":
      return assignmentOfInterface(listen.name, family, host);
    case "any":
      return listen.family === family ? { ...named([]), any: true } : undefined;
    case "address": {
      const { address } = listen;
      if (familyOf(address) !== family) return undefined;
      return host.local.has(address) || address === LOOPBACK
        ? named([address])
        : absent(`address ${address}: not on this host (yet)`);
    }
  }
}

/** An interface counts with the families it has. One without an address is shown once, as IPv4, with the reason. */
function assignmentOfInterface(
  name: string,
  family: Family,
  { byLink, reachesLoopback }: HostState,
): ListenAssignment | undefined {
  const own = byLink.get(name);
  if (own === undefined) return family === 6 ? undefined : absent(`there is no interface ${name} (yet)`);
  const usable = own.filter((ip) => !isLoopback(ip) || (reachesLoopback && ip === LOOPBACK));
  const addresses = usable.filter((ip) => familyOf(ip) === family);
  if (addresses.length > 0) return named(addresses);
  if (usable.length > 0 || family === 6) return undefined;
  if (own.length === 0) return absent(`interface ${name} has no address (yet)`);
  return absent(
    `interface ${name} has only loopback addresses: of these only ${LOOPBACK} can be published, with reach.loopback: true`,
  );
}

function named(addresses: readonly Ip[]): ListenAssignment {
  return { any: false, addresses, taken: [], notes: [] };
}

function absent(note: string): ListenAssignment {
  return { ...named([]), notes: [note] };
}

function merge(assignments: readonly ListenAssignment[]): ListenAssignment {
  return {
    any: assignments.some(({ any }) => any),
    addresses: [...new Set(assignments.flatMap(({ addresses }) => addresses))],
    taken: [],
    notes: assignments.flatMap(({ notes }) => notes),
  };
}
