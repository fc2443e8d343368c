import type { Family } from "../net/address.ts";
import { ownerName, parseOwner } from "../rules/ownership.ts";
import type { CountedRule } from "../rules/parse-save.ts";
import { commentOf, optionOf } from "../rules/ruleset.ts";
import type { ForwardStatus } from "./status.ts";

/** A forward with what its rules have counted; null where they cannot be read, or there are none. */
export type CountedForward = ForwardStatus & {
  readonly packets: number | null;
  readonly bytes: number | null;
};

/**
 * Gives each forward what the rules of KVMNATD-DNAT have counted for it: packets that opened connections, the nat
 * table sees no others.
 * @param rules by family; a rule's counters go to one forward only
 */
export function countForwards(
  forwards: readonly ForwardStatus[],
  rules: ReadonlyMap<Family, readonly CountedRule[]>,
): readonly CountedForward[] {
  const byPort = Map.groupBy(forwards, ({ family, guest, protocol, published }) =>
    keyOf(family, ownerName(guest), protocol, published.replace("-", ":")),
  );
  const sums = new Map<ForwardStatus, { readonly packets: number; readonly bytes: number }>();
  for (const [family, counted] of rules)
    for (const { rule, counters } of counted) {
      const owner = parseOwner(commentOf(rule) ?? "");
      const ports = optionOf(rule, "--dport") ?? "";
      const alike = byPort.get(keyOf(family, owner?.name ?? "", optionOf(rule, "-p") ?? "", ports)) ?? [];
      const forward = alike.find((each) => listensAt(each, optionOf(rule, "-d"))) ?? alike[0];
      if (forward === undefined) continue;
      const sum = sums.get(forward) ?? { packets: 0, bytes: 0 };
      sums.set(forward, { packets: sum.packets + counters.packets, bytes: sum.bytes + counters.bytes });
    }
  return forwards.map((forward) => ({
    ...forward,
    ...(sums.get(forward) ?? { packets: null, bytes: null }),
  }));
}

/** @param destination of a rule, e.g. `198.51.100.1/32`; undefined: any */
function listensAt({ listen }: ForwardStatus, destination: string | undefined): boolean {
  return destination === undefined ? listen.length === 0 : listen.includes(destination.replace(/\/\d+$/, ""));
}

function keyOf(family: Family, guest: string, protocol: string, ports: string): string {
  return [family, guest, protocol, ports].join(" ");
}
