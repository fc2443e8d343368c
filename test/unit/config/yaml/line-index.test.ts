import { expect, it } from "vitest";
import { indexLines } from "../../../../src/config/yaml/line-index.ts";

it.each([
  ["", 0, 1, 1],
  ["ab\ncd", 0, 1, 1],
  ["ab\ncd", 2, 1, 3],
  ["ab\ncd", 3, 2, 1],
  ["ab\ncd", 5, 2, 3],
  ["ab\ncd", 99, 2, 3],
  ["ab\r\ncd", 4, 2, 1],
  ["a\n\n\nb", 4, 4, 1],
  ["a\n", 2, 2, 1],
])("%j at %i is line %i, column %i", (text, offset, line, column) => {
  expect(indexLines(text)(offset)).toEqual({ line, column });
});
