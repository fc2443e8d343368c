import { emitKeypressEvents } from "node:readline";
import type { Key } from "node:readline";
import { PassThrough } from "node:stream";
import { describe, expect, it } from "vitest";
import { cut, describeWindow, nameKey, QUIT_KEYS, scroll, windowAt, wrap } from "../../../src/cli/screen.ts";

const RED = "\u001b[31m";
const PLAIN = "\u001b[39m";

/** What the program does on what a terminal sends: it quits, or shows the table from another row on. */
function press(sent: string): readonly (number | "quit")[] {
  const terminal = new PassThrough();
  const done: (number | "quit")[] = [];
  emitKeypressEvents(terminal);
  terminal.on("keypress", (typed: string | undefined, key: Key) => {
    const name = nameKey(typed, key);
    done.push(QUIT_KEYS.has(name) ? "quit" : scroll({ first: 5, end: 15 }, name, 100));
  });
  terminal.emit("data", Buffer.from(sent));
  return done;
}

const [UP, DOWN, PAGE_UP, PAGE_DOWN, TOP, BOTTOM, STAYS] = [4, 6, -4, 14, 0, 100, 5];

describe("a key", () => {
  it.each([
    ["qQ", ["quit", "quit"]],
    ["\u0003\u0004", ["quit", "quit"]],
    ["jjk", [DOWN, DOWN, UP]],
    ["\u001b[A\u001bOB", [UP, DOWN]],
    ["b\u001b[5~", [PAGE_UP, PAGE_UP]],
    ["\u001b[6~ ", [PAGE_DOWN, PAGE_DOWN]],
    ["g\u001b[H\u001bOH\u001b[1~", [TOP, TOP, TOP, TOP]],
    ["G\u001b[F\u001bOF\u001b[4~", [BOTTOM, BOTTOM, BOTTOM, BOTTOM]],
    ["\u001b[15~xyzJK\u001b", [STAYS, STAYS, STAYS, STAYS, STAYS, STAYS]],
    ["", []],
  ])("%j scrolls or quits: %j", (sent, expected) => {
    expect(press(sent)).toEqual(expected);
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
