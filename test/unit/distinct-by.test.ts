import { expect, it } from "vitest";
import { distinctBy } from "../../src/distinct-by.ts";

it("keeps the last value of each key, at the place of the first", () => {
  expect(distinctBy(["b1", "a1", "b2"], ([key = ""]) => key)).toEqual(["b2", "a1"]);
});
