import fc from "fast-check";
import { expect, it } from "vitest";
import { printable } from "../../../src/core/printable.ts";

it.each([
  ["web-1.example", "web-1.example"],
  ["größe 网", "größe 网"],
  ["a\nb", "a\\u{a}b"],
  ["\u001b[2J", "\\u{1b}[2J"],
  ["abc\u202edef", "abc\\u{202e}def"],
  ["back\\slash", "back\\\\slash"],
  ["\ud800", "\\u{d800}"],
])("%j becomes %s", (text, expected) => {
  expect(printable(text)).toBe(expected);
});

it("is short, whatever was sent", () => {
  expect(printable("A".repeat(10_000))).toBe(`${"A".repeat(64)}... (10000 characters)`);
});

it("never lets a control character through", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 300 }), (text) => {
      expect(printable(text)).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
      expect(printable(text).length).toBeLessThan(120);
    }),
  );
});
