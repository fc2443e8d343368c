import { familyOf, parseIp } from "./address.ts";
import type { Family, Protocol } from "./address.ts";
import type { HostAddresses } from "./network.ts";
import type { Forward, Listen, PortMap } from "./port-map.ts";
import { printable } from "./printable.ts";

/** A socket of the host itself that waits for connections. */
export interface Listener {
  readonly protocol: Protocol;
  /** `*`, `0.0.0.0`, `[::]` or an address, as ss prints it. */
  readonly address: string;
  readonly port: number;
  /** Its program and pid, as far as the kernel tells. */
  readonly process: string;
}

/** A published port on which the host itself listens: clients will reach the guest, no longer the process. */
export interface Occupied {
  readonly forward: Forward;
  readonly port: number;
  readonly process: string;
}

/** @returns one row a port and process, in the config's order */
export function findOccupied(
  portMap: PortMap,
  listeners: readonly Listener[],
  host: HostAddresses,
): readonly Occupied[] {
  const forwards = portMap.guests.flatMap((guest) => guest.forwards);
  const rows = forwards.flatMap((forward) =>
    listeners
      .filter((listener) => collides(forward, listener, host, portMap.reach.loopback))
      .map(({ port, process }): Occupied => ({ forward, port, process: printable(process) })),
  );
  const byKey = new Map(rows.map((row) => [describeOccupied(row), row]));
  return [...byKey.values()];
}

export function describeOccupied({ forward, port, process }: Occupied): string {
  return (
    `port ${port}/${forward.protocol} of this host is in use by ${process}; ` +
    `clients from outside will reach guest ${printable(forward.guest)} instead`
  );
}

function collides(forward: Forward, listener: Listener, host: HostAddresses, loopback: boolean): boolean {
  const { first, last } = forward.published;
  if (listener.protocol !== forward.protocol || listener.port < first || listener.port > last) return false;
  return forward.listen.some((listen) => overlaps(listen, listener.address, host, loopback));
}

function overlaps(listen: Listen, address: string, host: HostAddresses, loopback: boolean): boolean {
  const ip = parseIp(address.replace(/^\[|\]$/g, ""));
  // `*` is every address of both families.
  const families: readonly Family[] = ip === undefined ? [4, 6] : [familyOf(ip)];
  const everywhere = ip === undefined || ip === "0.0.0.0" || ip === "::";
  // From outside nobody reaches 127.0.0.1, and we redirect it only when asked to.
  if (ip?.startsWith("127.") === true && !loopback) return false;
  switch (listen.kind) {
    case "any":
      return families.includes(listen.family);
    case "address":
      return families.includes(familyOf(listen.address)) && (everywhere || ip === listen.address);
    case "interface":
      return (host.get(listen.name) ?? []).some(
        (own) => families.includes(familyOf(own)) && (everywhere || ip === own),
      );
  }
}
