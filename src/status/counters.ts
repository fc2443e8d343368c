import { formatPorts } from "../net/address.ts";
import type { Family } from "../net/address.ts";
import { parseDnatRule } from "../rules/dnat-rule.ts";
import type { DnatRule } from "../rules/dnat-rule.ts";
import { encodeOwnerName } from "../rules/ownership.ts";
import type { CountedRule } from "../rules/parse-save.ts";
import type { ForwardStatus } from "./status.ts";

/** A forward with the counters of its rules; null when they cannot be read or there are no rules. */
export type CountedForward = ForwardStatus & {
  readonly packets: number | null;
  readonly bytes: number | null;
};

/**
 * Adds the counters of the rules in KVMNATD-DNAT to each forward. The nat table sees only packets that open connections.
 * @param rules by family; each rule counts for one forward only
 */
export function countForwards(
  forwards: readonly ForwardStatus[],
  rules: ReadonlyMap<Family, readonly CountedRule[]>,
): readonly CountedForward[] {
  const byPort = Map.groupBy(forwards, ({ family, guest, protocol, published }) =>
    keyOf(family, encodeOwnerName(guest), protocol, published),
  );
  const sums = new Map<ForwardStatus, { readonly packets: number; readonly bytes: number }>();
  for (const [family, counted] of rules)
    for (const { rule, counters } of counted) {
      const dnat = parseDnatRule(rule);
      if (dnat === undefined) continue;
      const { owner, protocol, published } = dnat;
      const alike = byPort.get(keyOf(family, owner.name, protocol, formatPorts(published))) ?? [];
      const forward = alike.find((each) => listensAt(each, dnat)) ?? alike[0];
      if (forward === undefined) continue;
      const sum = sums.get(forward) ?? { packets: 0, bytes: 0 };
      sums.set(forward, { packets: sum.packets + counters.packets, bytes: sum.bytes + counters.bytes });
    }
  return forwards.map((forward) => ({
    ...forward,
    ...(sums.get(forward) ?? { packets: null, bytes: null }),
  }));
}

function listensAt({ listen }: ForwardStatus, { hostAddress }: DnatRule): boolean {
  return hostAddress === undefined ? listen.length === 0 : listen.includes(hostAddress);
}

function keyOf(family: Family, guest: string, protocol: string, ports: string): string {
  return [family, guest, protocol, ports].join(" ");
}
