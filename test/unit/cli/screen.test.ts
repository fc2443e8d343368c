import { describe, expect, it } from "vitest";
import { cut, readKeys, scroll, describeWindow, windowAt, wrap } from "../../../src/cli/screen.ts";

const RED = "\u001b[31m";
const PLAIN = "\u001b[39m";

describe("keys", () => {
  it.each([
    ["q", ["quit"]],
    ["\u0003", ["quit"]],
    ["jjk", ["down", "down", "up"]],
    ["\u001b[A\u001bOB", ["up", "down"]],
    ["\u001b[6~ ", ["page-down", "page-down"]],
    ["gG", ["top", "bottom"]],
    ["\u001b[1;5A\u001b[15~xyz\u001b", []],
    ["", []],
  ])("%j is %j", (text, keys) => {
    expect(readKeys(text)).toEqual(keys);
  });
});

describe("the window", () => {
  it.each([
    ["all fit", 0, 10, 3, { first: 0, end: 3 }, "q quits"],
    ["some do not", 0, 10, 15, { first: 0, end: 10 }, "5 more below; "],
    ["in the middle", 3, 10, 15, { first: 3, end: 13 }, "3 more above, 2 more below; "],
    ["below the end", 99, 10, 15, { first: 5, end: 15 }, "5 more above; "],
    ["above the top", -1, 10, 15, { first: 0, end: 10 }, "5 more below; "],
    ["forwards that went", 9, 10, 4, { first: 0, end: 4 }, "q quits"],
    ["no room at all", 0, -2, 4, { first: 0, end: 0 }, "4 more below; "],
    ["no forwards", 0, 10, 0, { first: 0, end: 0 }, "q quits"],
  ])("%s", (_, first, room, count, expected, told) => {
    const window = windowAt(first, room, count);
    expect(window).toEqual(expected);
    expect(describeWindow(window, count)).toMatch(new RegExp(`^${told}`));
  });

  it.each([
    ["up", 4],
    ["down", 6],
    ["page-up", -4],
    ["page-down", 14],
    ["top", 0],
    ["bottom", 100],
  ] as const)("moves %s", (key, expected) => {
    expect(scroll({ first: 5, end: 15 }, key, 100)).toBe(expected);
  });
});

describe("a line", () => {
  it.each([
    ["short", 10, "short"],
    ["too long", 3, "too"],
    [`a ${RED}red${PLAIN} word`, 4, `a ${RED}re${PLAIN}`],
    ["\u{1f600}\u{1f600}\u{1f600}", 2, "\u{1f600}\u{1f600}"],
    ["any", 0, ""],
  ])("%j is cut to %i", (line, columns, expected) => {
    expect(cut(line, columns)).toBe(expected);
  });

  it.each([
    ["one two three", 7, ["one two", "three"]],
    [`${RED}error${PLAIN}: a b`, 8, [`${RED}error${PLAIN}: a`, "b"]],
    ["unbreakable", 5, ["unbre"]],
    ["", 5, [""]],
  ])("%j is wrapped to %i", (text, columns, expected) => {
    expect(wrap(text, columns)).toEqual(expected);
  });
});
