import { distinctBy } from "../distinct-by.ts";
import { familyOf, isLoopback, LOOPBACK, parseIp, parsePorts } from "../net/address.ts";
import type { Family, Protocol, HostAddresses } from "../net/address.ts";
import { familiesOfListen } from "../config/values/listen-address.ts";
import type { Forward } from "../config/port-map.ts";
import { printable } from "../sanitize.ts";
import type { DaemonStatus, ForwardStatus } from "./status.ts";

import type { PublishedProblem } from "./status.ts";
import type { Listen } from "../config/values/listen-address.ts";

/** Stands for the name of a process that the kernel does not report. */
export const UNNAMED = "a process";

/** A socket of the host itself that waits for connections. */
export interface Listener {
  readonly protocol: Protocol;
  /** `*`, `0.0.0.0`, `[::]` or an address, as ss prints it. */
  readonly address: string;
  readonly port: number;
  /** Its program and pid, or {@link UNNAMED}. */
  readonly process: string;
}

/** The part of a forward that decides whether a listener is in its way. */
type Published = Pick<Forward, "guest" | "protocol" | "published" | "listen">;

/** A published port on which the host itself listens: clients will reach the guest, no longer the process. */
export interface PortInUse<F extends Published = Published> {
  readonly forward: F;
  readonly port: number;
  readonly process: string;
}

/**
 * @param loopback whether 127.0.0.1 is published too (reach.loopback)
 * @returns one row a port and process, in the config's order
 */
export function findPortsInUse<F extends Published>(
  forwards: readonly F[],
  listeners: readonly Listener[],
  host: HostAddresses,
  loopback: boolean,
): readonly PortInUse<F>[] {
  const rows = forwards.flatMap((forward) =>
    listeners
      .filter((listener) => collides(forward, listener, host, loopback))
      .map(({ port, process }): PortInUse<F> => ({ forward, port, process: printable(process) })),
  );
  return distinctBy(rows, describePortInUse);
}

/**
 * The same for a status, whose problems of this kind are as old as the daemon's last look.
 * @returns its problems with those of now
 */
export function updatePortsInUse(
  { forwards, problems }: Pick<DaemonStatus, "forwards" | "problems">,
  listeners: readonly Listener[],
): readonly PublishedProblem[] {
  const [before = [], others = []] = [true, false].map((isOld) =>
    problems.filter(({ code }) => (code === "port-in-use") === isOld),
  );
  const find = (loopback: boolean): readonly PortInUse[] =>
    findPortsInUse(forwards.map(toPublished), listeners, new Map(), loopback);
  const known = new Set(
    find(forwards.some(({ listen }) => listen.includes(LOOPBACK))).map((row) => describePortInUse(row)),
  );
  const now = find(true).flatMap((row): readonly PublishedProblem[] => {
    const message = describePortInUse(row);
    const [what = ""] = message.split(" by ", 1);
    const old = before.find((each) => each.message.startsWith(what));
    // For a port on every address, a status does not contain whether 127.0.0.1 is one of them: the daemon knew.
    if (!known.has(message) && old === undefined) return [];
    // Only root sees the names of processes; the daemon may have seen them.
    const named = row.process === UNNAMED ? old : undefined;
    return [named ?? { code: "port-in-use", message, severity: "warning" }];
  });
  return [...others, ...now];
}

function toPublished({ guest, protocol, published, listen, family }: ForwardStatus): Published {
  const places = listen.map((name): Listen => {
    const address = parseIp(name);
    return address === undefined ? { kind: "interface", name } : { kind: "address", address };
  });
  return {
    guest,
    protocol,
    published: parsePorts(published),
    listen: places.length === 0 ? [{ kind: "any", family }] : places,
  };
}

export function describePortInUse({ forward, port, process }: PortInUse): string {
  return (
    `port ${port}/${forward.protocol} of this host is in use by ${process}; ` +
    `clients from outside will reach guest ${printable(forward.guest)} instead`
  );
}

function collides(forward: Published, listener: Listener, host: HostAddresses, loopback: boolean): boolean {
  const { first, last } = forward.published;
  if (listener.protocol !== forward.protocol || listener.port < first || listener.port > last) return false;
  return forward.listen.some((listen) => overlaps(listen, listener.address, host, loopback));
}

function overlaps(listen: Listen, address: string, host: HostAddresses, loopback: boolean): boolean {
  const ip = parseIp(address.replace(/^\[|\]$/g, ""));
  // `*` is every address of both families.
  const families: readonly Family[] = ip === undefined ? [4, 6] : [familyOf(ip)];
  const everywhere = ip === undefined || ip === "0.0.0.0" || ip === "::";
  // No client from outside reaches these. Only 127.0.0.1 is redirected, with reach.loopback, by every forward.
  if (ip !== undefined && isLoopback(ip))
    return loopback && ip === LOOPBACK && familiesOfListen(listen).includes(4);
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
