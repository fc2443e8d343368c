import { invalid } from "./result.ts";
import type { ParseResult } from "./result.ts";
import { printable } from "../../sanitize.ts";

/** IFNAMSIZ less the closing zero byte. */
const INTERFACE_LENGTH = 15;

/** Reads a name of a guest, domain or host, at most `maxBytes` of UTF-8. */
export function parseName(text: string, maxBytes: number): ParseResult<string> {
  if (text.trim() === "") return invalid("name-empty", "the name is empty");
  if (/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u.test(text))
    return invalid("name-control", `"${printable(text)}" has control characters in it`);
  const bytes = new TextEncoder().encode(text).length;
  return bytes > maxBytes
    ? invalid("name-long", `the name has ${bytes} bytes; ${maxBytes} is the most`)
    : { value: text };
}

/** Reads the name of an interface or bridge. `what` is how the message calls it: "an interface", "a bridge". */
export function parseInterfaceName(text: string, what: string): ParseResult<string> {
  if (text.length > INTERFACE_LENGTH && /^[\w.:-]+$/.test(text))
    return invalid(
      "interface-long",
      `"${printable(text)}" is too long for ${what}; ${INTERFACE_LENGTH} characters is the most`,
    );
  return /^[\w.:-]{1,15}$/.test(text) && /[a-z]/i.test(text)
    ? { value: text }
    : invalid("interface-name", `"${printable(text)}" is no name of ${what}`);
}
