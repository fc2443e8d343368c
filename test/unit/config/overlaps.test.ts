import { describe, expect, it } from "vitest";
import { findOverlaps } from "../../../src/config/overlaps.ts";
import type { Forward } from "../../../src/config/port-map.ts";
import type { Listen } from "../../../src/config/values/listen-address.ts";

const ANY: Listen = { kind: "any", family: 4 };

function forward(line: number, first: number, last = first, listen: Listen = ANY, guest = "a"): Forward {
  const range = { first, last };
  const where = { file: "f", line, column: 1 };
  return { guest, protocol: "tcp", published: range, target: range, listen: [listen], allow: [], where };
}

function lines(forwards: readonly Forward[]): readonly string[] {
  return findOverlaps(forwards).map(({ earlier, later }) => `${earlier.where.line}-${later.where.line}`);
}

describe("overlaps", () => {
  it("name the forward that is first in the file first, whichever port is lower", () => {
    expect(lines([forward(1, 50, 60), forward(2, 40, 50)])).toEqual(["1-2"]);
  });

  it("are found under a range that begins far below", () => {
    expect(lines([forward(1, 1, 100), forward(2, 101), forward(3, 102), forward(4, 90)])).toEqual(["1-4"]);
    expect(lines([forward(1, 1, 1000), forward(2, 2000), forward(3, 3000), forward(4, 999)])).toEqual([
      "1-4",
    ]);
  });

  it("include each of many copies", () => {
    const found = lines([forward(1, 1), forward(2, 1), forward(3, 1), forward(4, 1)]);
    expect(new Set(found.flatMap((pair) => pair.split("-"))).size).toBe(4);
  });

  it("are reported once for a pair that collides in several places", () => {
    const twice = { ...forward(1, 1), listen: [ANY, { kind: "interface", name: "eth0" }] as const };
    expect(lines([twice, { ...twice, where: { file: "f", line: 2, column: 1 } }])).toEqual(["1-2"]);
    expect(lines([twice])).toEqual([]);
  });

  it("are found among 10,000 forwards, colliding or not, within a second", () => {
    const apart = Array.from({ length: 10_000 }, (_, index) => forward(index, index + 1));
    const alike = Array.from({ length: 10_000 }, (_, index) => forward(index, 80));
    const before = process.cpuUsage();
    expect(lines(apart)).toEqual([]);
    expect(lines(alike)).toHaveLength(9_999);
    expect(process.cpuUsage(before).user).toBeLessThan(1e6);
  });
});
