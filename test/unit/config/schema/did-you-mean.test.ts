import { expect, it } from "vitest";
import { nearest } from "../../../../src/config/schema/did-you-mean.ts";

it.each([
  ["port", "ports"],
  ["PORTS", "ports"],
  ["adress", "address"],
  ["hostname", "hostname"],
  ["xyzzy", undefined],
  ["", undefined],
])("%j is meant as %s", (text, expected) => {
  expect(nearest(text, ["ports", "address", "hostname", "mac"])).toBe(expected);
});

it("of nothing is nothing", () => {
  expect(nearest("a", [])).toBeUndefined();
});
