import type { Key } from "node:readline";
import { stripVTControlCharacters } from "node:util";

/** Size of a terminal, in characters. */
export interface Size {
  readonly rows: number;
  readonly columns: number;
}

/** Which of the rows of a table are on the screen: from `first` up to, and without, `end`. */
export interface Window {
  readonly first: number;
  readonly end: number;
}

const ESC = "\u001b";
const CTRL_C = "\u0003";
const CTRL_D = "\u0004";

/** Keys that end the program; names are those of {@link nameKey}. */
export const QUIT_KEYS: ReadonlySet<string> = new Set(["q", "Q", CTRL_C, CTRL_D]);

/**
 * The name of a key: the character that it types, or else what node:readline calls it.
 * @param typed the character; undefined for a key that types none
 */
export function nameKey(typed: string | undefined, key: Key): string {
  return typed ?? key.name ?? "";
}

/** The window of `room` rows that begins at `first`, moved to where there are rows. */
export function windowAt(first: number, room: number, count: number): Window {
  const start = Math.max(0, Math.min(first, count - room));
  return { first: start, end: Math.min(start + Math.max(room, 0), count) };
}

/** The first row after a key; {@link windowAt} limits it to the rows that there are. */
export function scroll({ first, end }: Window, key: string, count: number): number {
  const page = Math.max(end - first - 1, 1);
  switch (key) {
    case "k":
    case "up":
      return first - 1;
    case "j":
    case "down":
      return first + 1;
    case "b":
    case "pageup":
      return first - page;
    case " ":
    case "pagedown":
      return first + page;
    case "g":
    case "home":
      return 0;
    case "G":
    case "end":
      return count;
    default:
      return first;
  }
}

/** A change of colour, which takes no room, or a character. */
const COLOR_OR_CHARACTER = new RegExp(`(${ESC}\\[[0-9;]*m)|[^]`, "gu");

/** Cuts a line to the width of the screen. */
export function cut(line: string, columns: number): string {
  let room = columns;
  return line.replaceAll(COLOR_OR_CHARACTER, (piece, color?: string) => {
    if (color !== undefined) return color;
    room -= 1;
    return room < 0 ? "" : piece;
  });
}

/** Lines that are no longer than the screen is wide, broken at blanks. */
export function wrap(text: string, columns: number): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`;
    if (lines.length === 0 || countCharacters(longer) > columns) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines.map((line) => cut(line, columns));
}

function countCharacters(text: string): number {
  return Array.from(stripVTControlCharacters(text)).length;
}

/** Counts the rows above and below the window, and names the keys. */
export function describeWindow({ first, end }: Window, count: number): string {
  const hidden = [
    ...(first > 0 ? [`${first} more above`] : []),
    ...(end < count ? [`${count - end} more below`] : []),
  ];
  return hidden.length === 0 ? "q quits" : `${hidden.join(", ")}; arrow keys, j and k scroll, q quits`;
}
