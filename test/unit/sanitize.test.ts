import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { printable, toJson } from "../../src/sanitize.ts";

it.each([
  ["web-1.example", "web-1.example"],
  ["größe 网", "größe 网"],
  ["a\nb", "a\\u{a}b"],
  ["\u001b[2J", "\\u{1b}[2J"],
  ["abc\u202edef", "abc\\u{202e}def"],
  ["back\\slash", "back\\\\slash"],
  ["\ud800", "\\u{d800}"],
])("printable shows %j as %s", (text, expected) => {
  expect(printable(text)).toBe(expected);
});

it("printable truncates a long text and appends its length", () => {
  expect(printable("A".repeat(10_000))).toBe(`${"A".repeat(64)}... (10000 characters)`);
});

it("printable never returns a control character", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 300 }), (text) => {
      expect(printable(text)).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
      expect(printable(text).length).toBeLessThan(120);
    }),
  );
});

describe("JSON", () => {
  it("keeps the value and escapes control characters for terminals", () => {
    const value = { name: "a\u009b2J\u202eb\u2028c\u{e0001}d\u007f\u001b", käse: ["\n", 1, null] };
    const text = toJson(value);
    expect(JSON.parse(text)).toEqual(value);
    expect(text.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
    expect(text).toContain("käse");
  });
});
