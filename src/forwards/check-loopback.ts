import { LOOPBACK } from "../net/address.ts";
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
  return [...assignHostAddresses(portMap, new Map([["lo", [LOOPBACK]]]))].flatMap(([{ where }, assignment]) =>
    (assignment[4]?.taken ?? [])
      .filter(({ address }) => address === LOOPBACK)
      .map((taken): Diagnostic<string> => {
        const choice = "the first in the file has it; name 127.0.0.1 in the one that should";
        const message = `${describeTaken(taken)} (line ${taken.by.where.line}): ${choice}`;
        return createWarning("loopback-shared", message, where);
      }),
  );
}
