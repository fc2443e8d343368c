import { expect, it } from "vitest";
import { findNearest } from "../../../../src/config/schema/did-you-mean.ts";

it.each([
  ["port", "ports"],
  ["PORTS", "ports"],
  ["adress", "address"],
  ["hostname", "hostname"],
  ["xyzzy", undefined],
  ["", undefined],
])("%j is meant as %s", (text, expected) => {
  expect(findNearest(text, ["ports", "address", "hostname", "mac"])).toBe(expected);
});

it("of nothing is nothing", () => {
  expect(findNearest("a", [])).toBeUndefined();
});
