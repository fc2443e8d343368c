import { parseCidr } from "../../net/address.ts";
import type { ParseError } from "../values/result.ts";
import { parseInterfaceName } from "../values/names.ts";
import { findNearest } from "./did-you-mean.ts";
import { parsePortText } from "../values/port-syntax.ts";
import { printable } from "../../sanitize.ts";
import { checkSchema, knownKeys } from "./schema.ts";
import type { SchemaIssue } from "./schema.ts";
import type { Path } from "../yaml/tree.ts";

/** An error of the shape, and where it is. */
export interface ShapeError extends ParseError {
  readonly path: Path;
  /** True when the key is invalid and not its value. */
  readonly atKey: boolean;
  /** The key that an unknown key was probably meant to be. */
  readonly meant: string | undefined;
}

/** Lists every error of a config's shape, in words for the admin. */
export function findShapeErrors(value: unknown): readonly ShapeError[] {
  const faults = checkSchema(value).flatMap((issue) => formatZodIssue(issue, [], value));
  // A required key that is there under a misspelled name is not reported as missing too.
  const meant = new Set(
    faults.flatMap(({ path, meant: key }) =>
      key === undefined ? [] : [JSON.stringify([...path.slice(0, -1), key])],
    ),
  );
  return faults.filter(({ path }) => valueAt(value, path) !== undefined || !meant.has(JSON.stringify(path)));
}

function formatZodIssue(issue: SchemaIssue, above: Path, root: unknown): readonly ShapeError[] {
  const path: Path = [...above, ...(issue.path as Array<string | number>)];
  if (issue.code === "unrecognized_keys") return issue.keys.map((key) => unknownKey(key, path));
  const value = valueAt(root, path);
  const misread = misreadText(value);
  if (misread !== undefined) return [{ path, atKey: false, meant: undefined, ...misread }];
  if (issue.code === "invalid_union") {
    const branch = issue.errors.find((errors) => !errors.some(isWrongType));
    if (branch !== undefined) return branch.flatMap((each) => formatZodIssue(each, path, root));
  }
  return [{ path, atKey: false, meant: undefined, ...formatValueIssue(issue, nameOf(path), value) }];
}

function formatValueIssue(issue: SchemaIssue, name: string, value: unknown): ParseError {
  if (name === "guests" && (value === null || value === undefined))
    return { code: "no-guests", message: "guests is missing or has no value; write `guests: {}` for none" };
  if (value === null)
    return { code: "no-value", message: `${name} has no value; give it one or remove the key` };
  if (value === undefined) return { code: "missing-key", message: `${name} is missing` };
  switch (issue.code) {
    case "invalid_type":
    case "invalid_union": {
      const wanted = issue.code === "invalid_type" ? [issue] : issue.errors.flat().filter(isWrongType);
      const words = wanted.map((each) => ("expected" in each ? typeWord(each.expected) : "")).join(" or ");
      return {
        code: "wrong-type",
        message: `${name} is ${typeWord(typeName(value))}, not ${words}${example(name, value)}`,
      };
    }
    case "invalid_value":
      if (typeof value !== "string") {
        const known = issue.values.join(", ");
        return {
          code: "wrong-type",
          message: `${name} is ${typeWord(typeName(value))}, not one of ${known}`,
        };
      }
      return { code: "unknown-value", message: unknownValue(name, value, issue.values.map(String)) };
    default:
      return {
        code: "bad-value",
        message:
          typeof value === "string" ? `${name} is "${printable(value)}"; ${issue.message}` : issue.message,
      };
  }
}

function unknownKey(key: string, parent: Path): ShapeError {
  const known = knownKeys(parent);
  const meant = findNearest(key, known);
  const hint = meant === undefined ? `known here: ${known.join(", ")}` : `did you mean "${meant}"?`;
  const message = `unknown key "${printable(key)}"; ${hint}`;
  return { path: [...parent, key], atKey: true, meant, code: "unknown-key", message };
}

function unknownValue(name: string, value: string, known: readonly string[]): string {
  const meant = findNearest(value, known);
  const hint = meant === undefined ? "" : `; did you mean "${meant}"?`;
  return `${name} is one of ${known.join(", ")}, not "${printable(value)}"${hint}`;
}

/** `- 22: 22` and `- ::` are mappings in YAML, but their authors meant text. */
function misreadText(value: unknown): ParseError | undefined {
  const isMapping = typeof value === "object" && value !== null && !Array.isArray(value);
  const [first, ...more] = isMapping ? Object.entries(value) : [];
  if (first === undefined || more.length > 0) return undefined;
  const [key, member] = first;
  if (key === ":" && member === null)
    return { code: "yaml-quote", message: 'the address :: needs quotes: "::"' };
  if (!/^[\d.:-]+$/.test(key)) return undefined;
  if (member === null) return { code: "port-syntax", message: `the guest's port is missing after ${key}:` };
  if (typeof member !== "string") return undefined;
  return {
    code: "yaml-quote",
    message: `a port has no space after its colon; write ${key}:${printable(member)}`,
  };
}

function isWrongType(issue: SchemaIssue): boolean {
  return issue.code === "invalid_type" && issue.path.length === 0;
}

function valueAt(root: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (value, step) => (value as Record<string | number, unknown> | undefined)?.[step],
    root,
  );
}

function nameOf(path: Path): string {
  const key = path.findLast((step) => typeof step === "string");
  if (key === undefined) return "the config";
  if (path.length === 2 && path[0] === "guests") return `guest "${printable(key)}"`;
  return typeof path.at(-1) === "number" ? `an entry of ${key}` : path[0] === "reach" ? path.join(".") : key;
}

function typeName(value: unknown): string {
  return Array.isArray(value) ? "array" : typeof value;
}

function typeWord(type: string): string {
  return type === "array" ? "a list" : type === "string" ? "text" : "a mapping";
}

/** Shows how to write a single value as the list that is needed, if the value is valid in it. */
function example(name: string, value: unknown): string {
  if (typeof value !== "string" || LISTED[name]?.(value) !== true) return "";
  // An IPv6 address in brackets would begin a list of its own.
  return name === "ports" ? `; write ["${printable(value)}"]` : `; write [${printable(value)}]`;
}

const LISTED: Readonly<Record<string, (text: string) => boolean>> = {
  allow: (text) => parseCidr(text) !== undefined,
  networks: (text) => "value" in parseInterfaceName(text, "a bridge"),
  ports: (text) => "value" in parsePortText(text),
};
