import { createHash } from "node:crypto";

// Control characters, line and paragraph separators, bidirectional overrides, zero-width characters and lone surrogates:
// all characters that can move a cursor, break a line or make a text look like another.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Co}\p{Cn}\\]/gu;

/**
 * Makes text of a guest (or of any file) safe for a terminal, a log line or a table cell.
 * @returns one line without invisible characters, of at most `max` characters and, where it was cut, its length
 */
export function printable(text: string, max = 64): string {
  const escaped = Array.from(text.slice(0, max + 1), escape).join("");
  return escaped.length > max ? `${escaped.slice(0, max)}... (${text.length} characters)` : escaped;
}

/** Makes kvmnatd's own text safe, where it contains parts that {@link printable} has escaped already. */
export function oneLine(text: string): string {
  return Array.from(text, (character) => (character === "\\" ? character : escape(character))).join("");
}

function escape(character: string): string {
  return character.replace(UNPRINTABLE, (match) =>
    match === "\\" ? "\\\\" : `\\u{${match.codePointAt(0)?.toString(16)}}`,
  );
}

const HARMFUL = /[\u007f-\u009f\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** Formats JSON, and escapes also the characters that a terminal obeys but JSON may contain as they are. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, undefined, 2).replace(HARMFUL, (match) =>
    Array.from({ length: match.length }, (_, at) => escapeUnit(match.charCodeAt(at))).join(""),
  );
}

function escapeUnit(unit: number): string {
  return `\\u${unit.toString(16).padStart(4, "0")}`;
}

/** Encodes a name in characters that iptables-save prints unquoted. A long name is cut and ends in a hash of it all. */
export function encodeForComment(text: string): string {
  const encoded = text.replace(/[^A-Za-z0-9._-]/gu, (character) =>
    Array.from(new TextEncoder().encode(character), (byte) => `%${byte.toString(16).padStart(2, "0")}`).join(
      "",
    ),
  );
  if (encoded.length <= 90) return encoded;
  return `${encoded.slice(0, 70)}~${createHash("sha256").update(text).digest("hex").slice(0, 16)}`;
}
