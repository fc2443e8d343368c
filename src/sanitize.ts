import { createHash } from "node:crypto";

// Controls, line and paragraph separators, bidirectional overrides, zero-width characters and lone surrogates:
// everything that can move a cursor, break a line or make text look like other text.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Co}\p{Cn}\\]/gu;

/**
 * Text of a guest (or of any file) made safe for a terminal, a log line or a table cell:
 * one line, nothing invisible, at most `max` characters.
 */
export function printable(text: string, max = 64): string {
  const escaped = Array.from(text.slice(0, max + 1), escape).join("");
  return escaped.length > max ? `${escaped.slice(0, max)}... (${text.length} characters)` : escaped;
}

/** Our own text with printable parts in it, made safe once more: it stays one line, and moves no cursor. */
export function oneLine(text: string): string {
  return Array.from(text, (character) => (character === "\\" ? character : escape(character))).join("");
}

function escape(character: string): string {
  return character.replace(UNPRINTABLE, (match) =>
    match === "\\" ? "\\\\" : `\\u{${match.codePointAt(0)?.toString(16)}}`,
  );
}

const HARMFUL = /[\u007f-\u009f\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** JSON as JSON.stringify makes it, but for what a terminal obeys and JSON need not escape. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, undefined, 2).replace(HARMFUL, (match) =>
    Array.from({ length: match.length }, (_, at) => escapeUnit(match.charCodeAt(at))).join(""),
  );
}

function escapeUnit(unit: number): string {
  return `\\u${unit.toString(16).padStart(4, "0")}`;
}

/** Only characters that iptables-save prints as they are; what would be too long ends in a hash. */
export function encodeForComment(text: string): string {
  const encoded = text.replace(/[^A-Za-z0-9._-]/gu, (character) =>
    Array.from(new TextEncoder().encode(character), (byte) => `%${byte.toString(16).padStart(2, "0")}`).join(
      "",
    ),
  );
  if (encoded.length <= 90) return encoded;
  return `${encoded.slice(0, 70)}~${createHash("sha256").update(text).digest("hex").slice(0, 16)}`;
}
