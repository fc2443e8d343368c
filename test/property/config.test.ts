import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { formatPorts, parseIp } from "../../src/net/address.ts";
import type { Ip, PortRange } from "../../src/net/address.ts";
import { formatDiagnostic } from "../../src/config/code-frame.ts";
import { familiesOfListen, formatListen } from "../../src/config/values/listen-address.ts";
import { findOverlaps } from "../../src/config/overlaps.ts";
import { parsePortMap } from "../../src/config/parse-port-map.ts";
import type { Forward } from "../../src/config/port-map.ts";
import { parsePortText } from "../../src/config/values/port-syntax.ts";
import type { Listen } from "../../src/config/values/listen-address.ts";

const checks = { isCron: (): boolean => true };
const example = readFileSync(join(import.meta.dirname, "../../config.example.yaml"), "utf8");

const listens: fc.Arbitrary<Listen> = fc.constantFrom<Listen>(
  { kind: "any", family: 4 },
  { kind: "any", family: 6 },
  { kind: "address", address: parseIp("10.0.0.1") as Ip },
  { kind: "address", address: parseIp("10.0.0.2") as Ip },
  { kind: "address", address: parseIp("2001:db8::1") as Ip },
  { kind: "interface", name: "eth0" },
);

const ranges: fc.Arbitrary<PortRange> = fc
  .tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 0, max: 8 }))
  .map(([first, more]) => ({ first, last: first + more }));

const forwards: fc.Arbitrary<readonly Forward[]> = fc
  .array(fc.record({ published: ranges, listen: fc.uniqueArray(listens, { minLength: 1, maxLength: 2 }) }), {
    maxLength: 14,
  })
  .map((rows) =>
    rows.map(({ published, listen }, index) => ({
      guest: "a",
      protocol: "tcp",
      published,
      target: published,
      listen,
      allow: [],
      where: { file: "f", line: index + 1, column: 1 },
    })),
  );

function meet(one: Listen, other: Listen): boolean {
  if (one.kind === "any" || other.kind === "any") {
    const shared = familiesOfListen(one).some((family) => familiesOfListen(other).includes(family));
    return shared;
  }
  return formatListen(one) === formatListen(other);
}

function collide(one: Forward, other: Forward): boolean {
  const [a, b] = [one.published, other.published];
  return (
    a.first <= b.last &&
    b.first <= a.last &&
    one.listen.some((each) => other.listen.some((another) => meet(each, another)))
  );
}

describe("overlaps", () => {
  it("are collisions, and include every forward that collides", () => {
    fc.assert(
      fc.property(forwards, (all) => {
        const found = findOverlaps(all);
        expect(found.filter(({ earlier, later }) => !collide(earlier, later))).toEqual([]);
        const colliding = all.filter((one) => all.some((other) => other !== one && collide(one, other)));
        const named = new Set(found.flatMap(({ earlier, later }) => [earlier, later]));
        expect([...named].toSorted(byLine)).toEqual(colliding);
      }),
      { numRuns: 2000 },
    );
  });

  it("do not depend on the order", () => {
    fc.assert(
      fc.property(forwards, (all) => {
        expect(new Set(findOverlaps(all.toReversed()))).toEqual(new Set(findOverlaps(all)));
      }),
    );
  });
});

function byLine(one: Forward, other: Forward): number {
  return (one.where.line ?? 0) - (other.where.line ?? 0);
}

describe("a port", () => {
  it("is parsed to the values that it was written from", () => {
    const shift = fc.integer({ min: 0, max: 60_000 });
    const protocol = fc.constantFrom("tcp", "udp", "sctp");
    fc.assert(
      fc.property(ranges, shift, protocol, (published, by, name) => {
        const target = { first: published.first + by, last: published.last + by };
        const text = `${formatPorts(published)}:${formatPorts(target)}/${name}`;
        expect(parsePortText(text)).toEqual({ value: { published, target, protocols: [name] } });
      }),
    );
  });
});

/** Text made of what configs are made of, so that it comes far. */
const pieces = fc
  .array(
    fc.constantFrom(
      ..."\n|\n  |\n    |: |:|- |[|]|{|}|, |'|\"|#|&a |*a|<<: *a|\t|---|guests:|a:|ports:|allow:|listen:|reach:|22:22|::|10.0.0.1|published: 1|target: 2|!x |null".split(
        "|",
      ),
    ),
    { maxLength: 40 },
  )
  .map((parts) => parts.join(""));

/** The example with one piece of it cut out or replaced. */
const mutations = fc
  .tuple(fc.nat(example.length), fc.nat(40), fc.oneof(fc.constant(""), pieces))
  .map(([at, length, insert]) => example.slice(0, at) + insert + example.slice(at + length));

describe("any text", () => {
  it.each([
    ["noise", fc.string({ unit: "binary", maxLength: 200 })],
    ["pieces of configs", pieces],
    ["a damaged example", mutations],
    ["a truncated example", fc.nat(example.length).map((length) => example.slice(0, length))],
  ])(
    "such as %s gives a port map or an error, with places inside the text and messages of one line",
    (_, texts) => {
      fc.assert(
        fc.property(texts, (text) => {
          const { value, diagnostics } = parsePortMap(text, "c.yaml", checks);
          expect(value === undefined).toBe(diagnostics.some(({ severity }) => severity === "error"));
          const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/);
          for (const diagnostic of diagnostics) {
            const { line = 1, column = 1 } = diagnostic.where ?? {};
            expect(column).toBeGreaterThan(0);
            expect(column).toBeLessThanOrEqual((lines[line - 1]?.length ?? -1) + 2);
            expect(diagnostic.message).not.toMatch(/[\p{Cc}]/u);
            expect(formatDiagnostic(diagnostic, text, { color: false })).toContain(diagnostic.message);
          }
        }),
        { numRuns: 400 },
      );
    },
  );
});
