import { expect, it } from "vitest";
import { findNearest } from "../../../../src/config/schema/did-you-mean.ts";

it.each([
  ["port", "ports"],
  ["PORTS", "ports"],
  ["adress", "address"],
  ["hostname", "hostname"],
  ["xyzzy", undefined],
  ["", undefined],
])("the nearest word to %j is %s", (text, expected) => {
  expect(findNearest(text, ["ports", "address", "hostname", "mac"])).toBe(expected);
});

it("finds nothing among no words", () => {
  expect(findNearest("a", [])).toBeUndefined();
});
