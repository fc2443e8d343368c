import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from "yaml";
import type { Document, Node, ParsedNode, YAMLMap } from "yaml";
import type { Issue, Parsed, Place } from "./issue.ts";
import { printable } from "./printable.ts";
import { explainYamlError } from "./yaml-faults.ts";

export type Path = ReadonlyArray<string | number>;

/** A YAML text as plain values, each of which knows its place. */
export interface YamlDocument {
  /** Objects, arrays, null and text: a scalar is what is written, since `on`, `007` and `22:22` mean what people read. */
  readonly value: unknown;
  /** Place of the value at the path; of what is nearest above it when there is none. */
  place(path: Path): Place;
  /** Place of the key at the path. */
  keyPlace(path: Path): Place;
}

/** Values that aliases may add to a document: far above any config, far below what a bomb needs. */
const MAX_ALIASED = 100_000;
const NULLS: ReadonlySet<unknown> = new Set(["", "~", "null", "Null", "NULL"]);

interface Entry {
  readonly key?: Node;
  readonly value: Node | undefined;
}

interface Conversion {
  /** Anchors met so far: their values, and how many values those hold. */
  readonly anchors: Map<string, { readonly value: unknown; readonly size: number } | undefined>;
  /** Where the members of each object and array stand. */
  readonly entries: WeakMap<object, Map<string, Entry>>;
  aliased: number;
  /** Values met so far, those of aliases included. */
  size: number;
  refuse(node: Node, code: string, message: string): void;
  lineOf(node: Node): number;
}

/**
 * Reads YAML 1.2 with anchors and merge keys.
 * @returns undefined as value when the text is no YAML or holds nothing
 */
export function parseYaml(source: string, file: string): Parsed<YamlDocument | undefined> {
  const text = source.replace(/^\uFEFF/, "");
  const lines = new LineCounter();
  const document = parseDocument(text, {
    schema: "failsafe",
    stringKeys: true,
    // The library's check is quadratic and cannot say where the first of the two is; see convertMap.
    uniqueKeys: false,
    prettyErrors: false,
    lineCounter: lines,
  });
  const place = (offset: number): Place => {
    const { line, col } = lines.linePos(offset);
    return { file, line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  const issues = readErrors(document, text, place);
  if (issues.some((issue) => issue.code !== "yaml-tag" && issue.code !== "yaml-documents"))
    return { value: undefined, issues };
  if (document.contents === null || isNull(document.contents))
    return { value: undefined, issues: [...issues, empty(file)] };
  return convert(document.contents, issues, place);
}

function empty(file: string): Issue {
  const message = "the config is empty; write `guests: {}` for none";
  return { code: "config-empty", message, where: { file }, severity: "error" };
}

/** The first error of each line: what follows on it is mostly its echo. */
function readErrors(
  document: Document.Parsed,
  text: string,
  place: (offset: number) => Place,
): readonly Issue[] {
  const sourceLines = text.split(/\r?\n/);
  const byLine = new Map<number, Issue>();
  for (const { code, message, pos } of [...document.errors, ...document.warnings]) {
    const where = place(pos[0]);
    const line = where.line ?? 1;
    if (byLine.has(line)) continue;
    byLine.set(line, {
      ...explainYamlError(code, message, sourceLines[line - 1] ?? ""),
      where,
      severity: "error",
    });
  }
  return [...byLine.values()];
}

function convert(
  contents: ParsedNode,
  before: readonly Issue[],
  place: (offset: number) => Place,
): Parsed<YamlDocument | undefined> {
  const issues: Issue[] = [...before];
  const startOf = (node: Node | undefined): number => node?.range?.[0] ?? 0;
  const conversion: Conversion = {
    anchors: new Map(),
    entries: new WeakMap(),
    aliased: 0,
    size: 0,
    lineOf: (node) => place(startOf(node)).line ?? 1,
    refuse: (node, code, message) => {
      issues.push({ code, message, where: place(startOf(node)), severity: "error" });
    },
  };
  const value = toValue(contents, conversion);
  const find = (path: Path): Entry => findEntry(path, value, { value: contents }, conversion.entries);
  const document: YamlDocument = {
    value,
    place: (path) => {
      const entry = find(path);
      return place(startOf(entry.key !== undefined && isBlank(entry.value) ? entry.key : entry.value));
    },
    keyPlace: (path) => {
      const entry = find(path);
      return place(startOf(entry.key ?? entry.value));
    },
  };
  return {
    value: issues.some((issue) => issue.code.startsWith("yaml-alias")) ? undefined : document,
    issues,
  };
}

function findEntry(path: Path, root: unknown, start: Entry, entries: Conversion["entries"]): Entry {
  let [value, found] = [root, start];
  for (const step of path) {
    const members = typeof value === "object" && value !== null ? entries.get(value) : undefined;
    const entry = members?.get(String(step));
    if (entry === undefined) return found;
    found = entry;
    value = (value as Record<string | number, unknown>)[step];
  }
  return found;
}

function toValue(node: Node | null, conversion: Conversion): unknown {
  if (isAlias(node)) return followAlias(node, node.source, conversion);
  const anchor = isScalar(node) || isMap(node) || isSeq(node) ? node.anchor : undefined;
  if (anchor !== undefined) conversion.anchors.set(anchor, undefined);
  const before = conversion.size;
  conversion.size += 1;
  const value = toPlain(node, conversion);
  if (anchor !== undefined) conversion.anchors.set(anchor, { value, size: conversion.size - before });
  return value;
}

function toPlain(node: Node | null, conversion: Conversion): unknown {
  if (isMap<Node, Node | null>(node)) return convertMap(node, conversion);
  if (isSeq<Node>(node)) {
    const items = node.items.map((item) => toValue(item, conversion));
    const members = node.items.map((item, index): [string, Entry] => [String(index), { value: item }]);
    conversion.entries.set(items, new Map(members));
    return items;
  }
  return isNull(node) ? null : isScalar(node) ? String(node.value) : null;
}

function followAlias(node: Node, name: string, conversion: Conversion): unknown {
  const target = conversion.anchors.get(name);
  if (target === undefined) {
    const why = conversion.anchors.has(name) ? "stands inside its own anchor" : "has no anchor above it";
    conversion.refuse(node, "yaml-alias", `the alias *${printable(name)} ${why}`);
    return null;
  }
  const before = conversion.aliased;
  conversion.aliased += target.size;
  conversion.size += target.size;
  if (before <= MAX_ALIASED && conversion.aliased > MAX_ALIASED)
    conversion.refuse(node, "yaml-alias-bomb", `aliases expand to more than ${MAX_ALIASED} values`);
  return target.value;
}

function convertMap(map: YAMLMap<Node, Node | null>, conversion: Conversion): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  const members = new Map<string, Entry>();
  conversion.entries.set(result, members);
  const merges: Array<readonly [Node, unknown]> = [];
  for (const { key, value } of map.items) {
    const name = isScalar(key) ? String(key.value) : "";
    const plain = toValue(value, conversion);
    const first = members.get(name)?.key;
    if (name === "<<" && isScalar(key) && key.type === "PLAIN") merges.push([key, plain]);
    else if (name === "__proto__") conversion.refuse(key, "key-forbidden", "__proto__ cannot be a key");
    else if (first !== undefined) refuseTwice(key, name, conversion.lineOf(first), conversion);
    else {
      members.set(name, { key, value: value ?? undefined });
      result[name] = plain;
    }
  }
  for (const [key, plain] of merges) mergeInto(result, members, key, plain, conversion);
  return result;
}

function refuseTwice(key: Node, name: string, firstLine: number, conversion: Conversion): void {
  const message = `the key "${printable(name)}" is already at line ${firstLine}; join the two`;
  conversion.refuse(key, "duplicate-key", message);
}

/** `<<: *base` or `<<: [*one, *other]`: own keys win over merged ones, earlier mappings over later ones. */
function mergeInto(
  result: Record<string, unknown>,
  members: Map<string, Entry>,
  key: Node,
  plain: unknown,
  conversion: Conversion,
): void {
  for (const source of Array.isArray(plain) ? (plain as readonly unknown[]) : [plain]) {
    const merged = typeof source === "object" && source !== null ? conversion.entries.get(source) : undefined;
    if (merged === undefined || Array.isArray(source)) {
      conversion.refuse(key, "yaml-merge", "<< takes a mapping or a list of them, such as <<: *name");
      continue;
    }
    for (const [name, entry] of merged) {
      if (members.has(name)) continue;
      members.set(name, entry);
      result[name] = (source as Record<string, unknown>)[name];
    }
  }
}

function isNull(node: Node | null): boolean {
  return isScalar(node) && node.type === "PLAIN" && NULLS.has(node.value);
}

function isBlank(node: Node | undefined): boolean {
  return node === undefined || (isScalar(node) && node.type === "PLAIN" && node.value === "");
}
