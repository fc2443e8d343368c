import { invalid } from "../values/result.ts";
import type { ParseError } from "../values/result.ts";
import { printable } from "../../sanitize.ts";

/** Messages by the library's code, where they help more than the library's own. */
const MESSAGES: ReadonlyMap<string, readonly [code: string, message: string]> = new Map([
  ["TAB_AS_INDENT", ["yaml-tab", "a tab indents this line; YAML needs spaces"]],
  [
    "MULTIPLE_DOCS",
    ["yaml-documents", "a second YAML document begins here; a config is one document; remove the ---"],
  ],
  [
    "NON_STRING_KEY",
    ["yaml-syntax", "a list, mapping or alias cannot be a key; a colon may be missing or misplaced"],
  ],
  ["BAD_COLLECTION_TYPE", ["yaml-tag", "YAML tags such as !name mean nothing here; remove it"]],
  ["TAG_RESOLVE_FAILED", ["yaml-tag", "YAML tags such as !name mean nothing here; remove it"]],
  ["BAD_SCALAR_START", ["yaml-syntax", "text that starts with @, ` or % needs quotes"]],
  [
    "BLOCK_AS_IMPLICIT_KEY",
    ["yaml-syntax", "wrong indentation, or text with a colon and a space that needs quotes"],
  ],
  ["MULTILINE_IMPLICIT_KEY", ["yaml-syntax", "wrong indentation, or a key without its colon"]],
  ["RESOURCE_EXHAUSTION", ["yaml-depth", "lists or mappings are nested too deeply"]],
]);

/**
 * Describes why a line is not valid YAML.
 * @param code the library's code
 * @param message the library's message
 * @param line the source line
 * @param before the line before it
 */
export function describeYamlError(code: string, message: string, line: string, before: string): ParseError {
  const hint = hintToQuote(line);
  if (hint !== undefined) return { code: "yaml-quote", message: hint };
  if (/^Flow (map|sequence)/.test(message))
    return { code: "yaml-syntax", message: "a [ or { above this place is not closed" };
  const nothing = nothingBefore(line, before);
  if (nothing !== undefined)
    return {
      code: "yaml-syntax",
      message: `the key on the line before is empty: remove the ${nothing} from it`,
    };
  const [ours, text] = MESSAGES.get(code) ?? ["yaml-syntax", `not valid YAML: ${printable(message, 200)}`];
  return invalid(ours, text).fault;
}

/** Finds the `{}` or `[]` of the key above an indented line; the packages' initial config has such a key. */
function nothingBefore(line: string, before: string): string | undefined {
  const isBelow = /^ */.exec(line)?.[0].startsWith(`${/^ */.exec(before)?.[0]} `) === true;
  return isBelow ? /:\s*(\{\}|\[\])\s*(?:#.*)?$/.exec(before)?.[1] : undefined;
}

/** IPv6 in plain YAML is a list (`[::1]:80:80`) or the key of a mapping (`::`). */
function hintToQuote(line: string): string | undefined {
  const port = /(?<!["'])\[[\da-f:.]*:[\da-f:.]*\]:[\w:/-]+/i.exec(line)?.[0];
  if (port !== undefined) return `an IPv6 address in brackets needs quotes: "${port}"`;
  return /(?<![\w:"'.-])::(?=$|[\s,\]}])/.test(line) ? 'the address :: needs quotes: "::"' : undefined;
}
