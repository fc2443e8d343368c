import { invalid } from "./result.ts";
import type { ParseResult } from "./result.ts";
import { printable } from "../../sanitize.ts";

/** Maximum length of an interface name: IFNAMSIZ without the final zero byte. */
const MAX_INTERFACE_LENGTH = 15;

/** Parses the name of a guest, domain or host. `maxBytes` is the maximum length in UTF-8. */
export function parseName(text: string, maxBytes: number): ParseResult<string> {
  if (text.trim() === "") return invalid("name-empty", "the name is empty");
  if (/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u.test(text))
    return invalid("name-control", `"${printable(text)}" contains control characters`);
  const bytes = new TextEncoder().encode(text).length;
  return bytes > maxBytes
    ? invalid("name-long", `the name has ${bytes} bytes; the maximum is ${maxBytes}`)
    : { value: text };
}

/** Parses the name of an interface or bridge. `what` names it in the message: "an interface", "a bridge". */
export function parseInterfaceName(text: string, what: string): ParseResult<string> {
  if (text.length > MAX_INTERFACE_LENGTH && /^[\w.:-]+$/.test(text))
    return invalid(
      "interface-long",
      `"${printable(text)}" is too long for ${what}; the maximum is ${MAX_INTERFACE_LENGTH} characters`,
    );
  return /^[\w.:-]{1,15}$/.test(text) && /[a-z]/i.test(text)
    ? { value: text }
    : invalid("interface-name", `"${printable(text)}" is not a valid name of ${what}`);
}
