import { describe, expect, it } from "vitest";
import { findEarliest } from "../../src/earliest.ts";

describe("findEarliest", () => {
  it("returns the earliest time and ignores those that are undefined", () => {
    expect(findEarliest([undefined, 3, 1, undefined, 2])).toBe(1);
  });

  it("returns undefined without a time", () => {
    expect(findEarliest([])).toBeUndefined();
    expect(findEarliest([undefined])).toBeUndefined();
  });
});
