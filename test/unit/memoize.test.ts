import { describe, expect, it } from "vitest";
import { memoize } from "../../src/memoize.ts";

describe("memoize", () => {
  it.each([undefined, null, 0, "text"])("computes %s once for equal keys", (value) => {
    const computed: number[] = [];
    const find = memoize((key: number) => {
      computed.push(key);
      return value;
    });
    expect([find(1), find(2), find(1)]).toEqual([value, value, value]);
    expect(computed).toEqual([1, 2]);
  });

  it("compares keys by their text", () => {
    const find = memoize(
      ({ name }: { readonly name: string }) => ({ name }),
      ({ name }) => name,
    );
    expect(find({ name: "a" })).toBe(find({ name: "a" }));
    expect(find({ name: "a" })).not.toBe(find({ name: "b" }));
  });
});
