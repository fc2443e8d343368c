import { isAlias, isMap, isScalar, isSeq, parseDocument } from "yaml";
import type { Document, Node } from "yaml";
import type { Diagnostic, Parsed, SourceLocation } from "../../diagnostic.ts";
import { createError } from "../../diagnostic.ts";
import { indexLines } from "./line-index.ts";
import { describeYamlError } from "./messages.ts";
import { resolveYaml } from "./values.ts";
import type { Member, YamlNode, YamlValues } from "./values.ts";

export type Path = ReadonlyArray<string | number>;

/** A YAML text as plain values, each of which knows its place. */
export interface YamlDocument {
  /** Objects, arrays, null and text: scalars are what is written. */
  readonly value: unknown;
  /** SourceLocation of the value at the path; of what is nearest above it when there is none. */
  place(path: Path): SourceLocation;
  /** SourceLocation of the key at the path. */
  keyPlace(path: Path): SourceLocation;
}

type PlaceOf = (offset: number) => SourceLocation & { readonly line: number };

/** Far above any config. Who reads the file looks at its size too, but a pipe has none. */
const MAX_BYTES = 1024 * 1024;

/** After these the tree is as meant, so the rest can be checked too. */
const TREE_IS_SOUND: ReadonlySet<string> = new Set([
  "yaml-tag",
  "yaml-documents",
  "duplicate-key",
  "key-forbidden",
]);

/**
 * Reads YAML 1.2 with anchors and merge keys.
 * @returns undefined as value when the text is no YAML, holds nothing or is larger than 1 MiB
 */
export function parseYaml(source: string, file: string): Parsed<YamlDocument | undefined> {
  const bytes = new TextEncoder().encode(source).length;
  if (bytes > MAX_BYTES) return { value: undefined, diagnostics: [largeConfig(file, bytes)] };
  const text = source.replace(/^\uFEFF/, "");
  const document = parseDocument(text, {
    schema: "failsafe",
    stringKeys: true,
    // The library's check is quadratic and cannot say where the first of the two is.
    uniqueKeys: false,
    prettyErrors: false,
  });
  // The library's own LineCounter loses lines that follow a syntax error.
  const positionOf = indexLines(text);
  const placeOf: PlaceOf = (offset) => ({ file, ...positionOf(offset) });
  const diagnostics = readErrors(document, text, placeOf);
  if (!diagnostics.every(isTreeSound)) return { value: undefined, diagnostics };
  const values = resolveYaml(toTree(document.contents, 0), (offset) => placeOf(offset).line);
  if (values.value === null && values.faults.length === 0) diagnostics.push(emptyConfig(file));
  for (const { offset, code, message } of values.faults)
    diagnostics.push({ code, message, where: placeOf(offset), severity: "error" });
  const usable = diagnostics.every(isTreeSound);
  return {
    value: usable ? createDocument(values, document.contents?.range[0] ?? 0, placeOf) : undefined,
    diagnostics,
  };
}

function isTreeSound({ code }: Diagnostic<string>): boolean {
  return TREE_IS_SOUND.has(code);
}

/** An editor that truncates before it writes must not take every forward down for a moment. */
function emptyConfig(file: string): Diagnostic<string> {
  const message = "the config is empty; write `guests: {}` for none";
  return createError("config-empty", message, { file });
}

function largeConfig(file: string, bytes: number): Diagnostic<string> {
  const message = `the config is ${bytes} bytes; ${MAX_BYTES} is the most`;
  return createError("config-large", message, { file });
}

/** The first error of each line: what follows on it is mostly its echo. */
function readErrors(
  { errors, warnings }: Document.Parsed,
  text: string,
  placeOf: PlaceOf,
): Diagnostic<string>[] {
  const lines = text.split(/\r?\n/);
  const byLine = new Map<number, Diagnostic<string>>();
  for (const { code, message, pos } of [...errors, ...warnings]) {
    const where = placeOf(pos[0]);
    if (byLine.has(where.line)) continue;
    const [before = "", line = ""] = [lines[where.line - 2], lines[where.line - 1]];
    byLine.set(where.line, { ...describeYamlError(code, message, line, before), where, severity: "error" });
  }
  return [...byLine.values()];
}

/** `fallback` is the place of what has none of its own: nothing after a key is shown at the key. */
function toTree(node: Node | null, fallback: number): YamlNode {
  const offset = node?.range?.[0] ?? fallback;
  if (isAlias(node)) return { kind: "alias", name: node.source, offset };
  if (isSeq<Node>(node)) {
    const items = node.items.map((item) => toTree(item, item?.range?.[0] ?? offset));
    return { kind: "list", items, offset, anchor: node.anchor };
  }
  if (isMap<Node, Node | null>(node)) {
    const items = node.items.map((pair) => {
      const key = toKey(pair.key);
      return { key, value: toTree(pair.value, key.offset) };
    });
    return { kind: "map", items, offset, anchor: node.anchor };
  }
  const scalar = isScalar(node) ? node : undefined;
  const text = typeof scalar?.value === "string" ? scalar.value : "";
  const plain = scalar === undefined || scalar.type === "PLAIN";
  const isBlank = plain && text === "";
  return { kind: "scalar", text, plain, offset: isBlank ? fallback : offset, anchor: scalar?.anchor };
}

function toKey(node: Node): { readonly text: string; readonly plain: boolean; readonly offset: number } {
  const text = isScalar(node) && typeof node.value === "string" ? node.value : "";
  return { text, plain: isScalar(node) && node.type === "PLAIN", offset: node.range?.[0] ?? 0 };
}

function createDocument({ value, members }: YamlValues, start: number, placeOf: PlaceOf): YamlDocument {
  const find = (path: Path): Member => {
    let [current, found]: [unknown, Member] = [value, { value: start }];
    for (const step of path) {
      const isParent = typeof current === "object" && current !== null;
      const member = isParent ? members.get(current as object)?.get(String(step)) : undefined;
      if (member === undefined) return found;
      found = member;
      current = (current as Readonly<Record<string | number, unknown>>)[step];
    }
    return found;
  };
  return {
    value,
    place: (path) => placeOf(find(path).value),
    keyPlace: (path) => placeOf(find(path).key ?? find(path).value),
  };
}
