import fc from "fast-check";
import { expect, it } from "vitest";
import { networkOf, parseIp, parseMac } from "../../src/net/address.ts";
import type { Family, Ip, PortRange } from "../../src/net/address.ts";
import { formatDnatRule, parseDnatRule } from "../../src/rules/dnat-rule.ts";
import type { DnatRule } from "../../src/rules/dnat-rule.ts";
import { ownerOf } from "../../src/rules/ownership.ts";
import { ruleKey } from "../../src/rules/ruleset.ts";
import { guest } from "../support/build-values.ts";

function demand<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("not a value");
  return value;
}

const ipOf = (family: Family): fc.Arbitrary<Ip> =>
  (family === 4 ? fc.ipV4() : fc.ipV6()).map((text) => parseIp(text)).filter((ip) => ip !== undefined);
const macOf = fc.integer({ min: 1, max: 255 }).map((last) => {
  const byte = last.toString(16).padStart(2, "0");
  return demand(parseMac(`52:54:00:6c:3c:${byte}`));
});
const ports: fc.Arbitrary<Pick<DnatRule, "published" | "targetPorts">> = fc
  .record({ length: fc.constantFrom(1, 1, 2, 100), one: fc.nat(65_000), other: fc.nat(65_000) })
  .map(({ length, one, other }) => {
    const range = (first: number): PortRange => ({ first: first + 1, last: first + length });
    return { published: range(one), targetPorts: range(other) };
  });

const ruleOf = (family: Family): fc.Arbitrary<DnatRule> =>
  fc
    .record({
      family: fc.constant(family),
      protocol: fc.constantFrom("tcp" as const, "udp" as const, "sctp" as const),
      ports,
      hostAddress: fc.option(ipOf(family), { nil: undefined }),
      source: fc.option(
        fc
          .tuple(ipOf(family), fc.integer({ min: 1, max: family === 4 ? 32 : 128 }))
          .map(([ip, prefix]) => networkOf(ip, prefix)),
        { nil: undefined },
      ),
      name: fc.string({ unit: "binary", minLength: 1, maxLength: 100 }),
      hostname: fc.string({ unit: "binary", minLength: 1, maxLength: 100 }),
      mac: fc.option(macOf, { nil: undefined }),
      destination: ipOf(family),
    })
    .map(({ ports: both, name, hostname, mac, ...rest }) => ({
      ...rest,
      ...both,
      owner: ownerOf(guest(name, { kind: "hostname", hostname }), mac),
    }));

it("reads back every DNAT rule that it writes", () => {
  fc.assert(
    fc.property(fc.oneof(ruleOf(4), ruleOf(6)), (rule) => {
      expect(parseDnatRule(formatDnatRule(rule))).toEqual(rule);
    }),
  );
});

it("writes different texts for different DNAT rules", () => {
  fc.assert(
    fc.property(ruleOf(4), ruleOf(4), (one, other) => {
      fc.pre(JSON.stringify(one) !== JSON.stringify(other));
      expect(ruleKey(formatDnatRule(one))).not.toBe(ruleKey(formatDnatRule(other)));
    }),
  );
});
