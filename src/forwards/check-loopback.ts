import { LOOPBACK, parseIp } from "../net/address.ts";
import type { HostAddresses, Ip } from "../net/address.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";
import { describeTaken, assignHostAddresses } from "./host-addresses.ts";
import type { Where } from "./host-addresses.ts";

/**
 * Forwards that share a port of 127.0.0.1. With `reach.loopback` every forward is published there.
 * @returns a warning for each forward that loses the port to another one
 */
export function checkLoopback(portMap: Where): readonly Diagnostic<string>[] {
  if (!portMap.reach.loopback) return [];
  return [...assignHostAddresses(portMap, completeHost(portMap))].flatMap(([{ where }, assignment]) =>
    (assignment[4]?.taken ?? [])
      .filter(({ address }) => address === LOOPBACK)
      .map((taken): Diagnostic<string> => {
        const choice = "the first in the file has it; name 127.0.0.1 in the one that should";
        const message = `${describeTaken(taken)} (line ${taken.by.where.line}): ${choice}`;
        return createWarning("loopback-shared", message, where);
      }),
  );
}

/** A host with every interface and address of the port map: the warnings do not depend on the host's state. */
function completeHost({ guests }: Where): HostAddresses {
  const listens = guests.flatMap(({ forwards }) => forwards).flatMap(({ listen }) => listen);
  const names = new Set(listens.flatMap((each) => (each.kind === "interface" ? each.name : [])));
  const links = [...names].map((name, index): [string, readonly Ip[]] => [name, placeholderAddress(index)]);
  const addresses = listens.flatMap((each) => (each.kind === "address" ? each.address : []));
  return new Map<string, readonly Ip[]>([...links, ["", addresses], ["lo", [LOOPBACK]]]);
}

/** An address of its own for each interface, from a reserved range. */
function placeholderAddress(index: number): readonly Ip[] {
  const ip = parseIp(`240.0.${Math.floor(index / 256) % 256}.${index % 256}`);
  return ip === undefined ? [] : [ip];
}
