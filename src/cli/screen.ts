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

/** The action of a pressed key. */
export type Key = "quit" | "up" | "down" | "page-up" | "page-down" | "top" | "bottom";

const ESC = "\u001b";

/** The bytes of a key, as terminals send them in either cursor mode. */
const KEYS: ReadonlyMap<string, Key> = new Map([
  ["q", "quit"],
  ["Q", "quit"],
  ["\u0003", "quit"],
  ["\u0004", "quit"],
  ["k", "up"],
  [`${ESC}[A`, "up"],
  [`${ESC}OA`, "up"],
  ["j", "down"],
  [`${ESC}[B`, "down"],
  [`${ESC}OB`, "down"],
  ["b", "page-up"],
  [`${ESC}[5~`, "page-up"],
  [" ", "page-down"],
  [`${ESC}[6~`, "page-down"],
  ["g", "top"],
  [`${ESC}[H`, "top"],
  [`${ESC}OH`, "top"],
  [`${ESC}[1~`, "top"],
  ["G", "bottom"],
  [`${ESC}[F`, "bottom"],
  [`${ESC}OF`, "bottom"],
  [`${ESC}[4~`, "bottom"],
]);

/** One key: an escape sequence, or a character. */
const PRESSED = new RegExp(`${ESC}(?:\\[[0-9;]*[A-Za-z~]|O[A-Z])|[^]`, "gu");

/** Reads what a terminal sent; keys that mean nothing are left out. */
export function readKeys(text: string): readonly Key[] {
  const pressed = text.match(PRESSED) ?? [];
  return pressed.flatMap((each) => KEYS.get(each) ?? []);
}

/** The window of `room` rows that begins at `first`, moved to where there are rows. */
export function windowAt(first: number, room: number, count: number): Window {
  const start = Math.max(0, Math.min(first, count - room));
  return { first: start, end: Math.min(start + Math.max(room, 0), count) };
}

/** The first row after a key. {@link windowAt} sees to it that it is one. */
export function scroll({ first, end }: Window, key: Key, count: number): number {
  const page = Math.max(end - first - 1, 1);
  switch (key) {
    case "up":
      return first - 1;
    case "down":
      return first + 1;
    case "page-up":
      return first - page;
    case "page-down":
      return first + page;
    case "top":
      return 0;
    case "bottom":
      return count;
    case "quit":
      return first;
  }
}

/** What is not a character of its own: a change of colour. */
const COLOR = new RegExp(`(${ESC}\\[[0-9;]*m)`, "u");

/** A line that is no longer than the screen is wide; colours take no room. */
export function cut(line: string, columns: number): string {
  let room = columns;
  return line
    .split(COLOR)
    .map((part, index) => {
      if (index % 2 === 1) return part;
      const kept = Array.from(part).slice(0, room);
      room -= kept.length;
      return kept.join("");
    })
    .join("");
}

/** Lines that are no longer than the screen is wide, broken at blanks. */
export function wrap(text: string, columns: number): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`;
    if (lines.length === 0 || lengthOf(longer) > columns) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines.map((line) => cut(line, columns));
}

function lengthOf(text: string): number {
  return Array.from(
    text
      .split(COLOR)
      .filter((_, index) => index % 2 === 0)
      .join(""),
  ).length;
}

/** What is shown of a table that is longer than the screen. */
export function describeWindow({ first, end }: Window, count: number): string {
  const hidden = [
    ...(first > 0 ? [`${first} more above`] : []),
    ...(end < count ? [`${count - end} more below`] : []),
  ];
  return hidden.length === 0 ? "q quits" : `${hidden.join(", ")}; arrow keys, j and k scroll, q quits`;
}
