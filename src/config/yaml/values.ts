import type { ParseError } from "../values/result.ts";
import { printable } from "../../sanitize.ts";

/** A YAML text's tree, aliases and merge keys not yet followed. `offset` is where it begins in the text. */
export type YamlNode = { readonly offset: number; readonly anchor?: string | undefined } & (
  | { readonly kind: "alias"; readonly name: string }
  | { readonly kind: "scalar"; readonly text: string; readonly plain: boolean }
  | { readonly kind: "list"; readonly items: readonly YamlNode[] }
  | { readonly kind: "map"; readonly items: readonly YamlPair[] }
);

interface YamlPair {
  readonly key: { readonly text: string; readonly plain: boolean; readonly offset: number };
  readonly value: YamlNode;
}

/** Where a member of an object or array begins. */
export interface Member {
  /** Absent in arrays. */
  readonly key?: number;
  readonly value: number;
}

export interface YamlValues {
  /** Objects, arrays, null and text. */
  readonly value: unknown;
  /** By object or array, then by key or index. */
  readonly members: WeakMap<object, ReadonlyMap<string, Member>>;
  readonly faults: ReadonlyArray<ParseError & { readonly offset: number }>;
}

/** Values that aliases may add: far above any config, far below what a bomb needs. */
const MAX_ALIASED = 100_000;
const NULLS: ReadonlySet<string> = new Set(["", "~", "null", "Null", "NULL"]);

interface State {
  /** The anchors so far, with the count of values in each; undefined while the traversal is inside. */
  readonly anchors: Map<string, { readonly value: unknown; readonly size: number } | undefined>;
  readonly members: WeakMap<object, Map<string, Member>>;
  readonly faults: Array<ParseError & { readonly offset: number }>;
  /** Values so far, those behind aliases included. */
  size: number;
  aliased: number;
  lineOf(offset: number): number;
}

/**
 * Turns a tree into plain values. A scalar becomes the text that is written, since in a config
 * `on`, `007` and `22:22` mean what people read; only a plain null or nothing becomes null.
 */
export function resolveYaml(root: YamlNode, lineOf: (offset: number) => number): YamlValues {
  const state: State = {
    anchors: new Map(),
    members: new WeakMap(),
    faults: [],
    size: 0,
    aliased: 0,
    lineOf,
  };
  const value = toValue(root, state);
  return { value, members: state.members, faults: state.faults };
}

function toValue(node: YamlNode, state: State): unknown {
  if (node.kind === "alias") return followAlias(node.name, node.offset, state);
  const before = state.size;
  state.size += 1;
  if (node.anchor !== undefined) state.anchors.set(node.anchor, undefined);
  const value = toPlain(node, state);
  if (node.anchor !== undefined) state.anchors.set(node.anchor, { value, size: state.size - before });
  return value;
}

function toPlain(node: Exclude<YamlNode, { kind: "alias" }>, state: State): unknown {
  if (node.kind === "scalar") return node.plain && NULLS.has(node.text) ? null : node.text;
  if (node.kind === "map") return toObject(node.items, state);
  const values = node.items.map((item) => toValue(item, state));
  const members = node.items.map(({ offset }, index): [string, Member] => [`${index}`, { value: offset }]);
  state.members.set(values, new Map(members));
  return values;
}

function followAlias(name: string, offset: number, state: State): unknown {
  const target = state.anchors.get(name);
  if (target === undefined) {
    const why = state.anchors.has(name) ? "stands inside its own anchor" : "has no anchor above it";
    state.faults.push({ offset, code: "yaml-alias", message: `the alias *${printable(name)} ${why}` });
    return null;
  }
  const before = state.aliased;
  state.aliased += target.size;
  state.size += target.size;
  const message = `aliases expand to more than ${MAX_ALIASED} values`;
  if (before <= MAX_ALIASED && state.aliased > MAX_ALIASED)
    state.faults.push({ offset, code: "yaml-alias-bomb", message });
  return target.value;
}

function toObject(pairs: readonly YamlPair[], state: State): Readonly<Record<string, unknown>> {
  const result: Record<string, unknown> = {};
  const members = new Map<string, Member>();
  state.members.set(result, members);
  const merges: Array<{ readonly offset: number; readonly source: unknown }> = [];
  for (const { key, value } of pairs) {
    const plain = toValue(value, state);
    const first = members.get(key.text)?.key;
    if (key.text === "<<" && key.plain) merges.push({ offset: key.offset, source: plain });
    else if (key.text === "__proto__")
      state.faults.push({ offset: key.offset, code: "key-forbidden", message: "__proto__ cannot be a key" });
    else if (first !== undefined) {
      const message = `the key "${printable(key.text)}" is already at line ${state.lineOf(first)}; join the two`;
      state.faults.push({ offset: key.offset, code: "duplicate-key", message });
    } else {
      members.set(key.text, { key: key.offset, value: value.offset });
      result[key.text] = plain;
    }
  }
  for (const { offset, source } of merges) merge(source, offset, result, state);
  return result;
}

/** `<<: *base` or `<<: [*one, *other]`: own keys win over merged ones, earlier mappings over later ones. */
function merge(source: unknown, offset: number, into: Record<string, unknown>, state: State): void {
  for (const each of Array.isArray(source) ? (source as readonly unknown[]) : [source]) {
    const found = typeof each === "object" && each !== null ? state.members.get(each) : undefined;
    if (found === undefined || Array.isArray(each)) {
      const message = "<< takes a mapping or a list of them, such as <<: *name";
      state.faults.push({ offset, code: "yaml-merge", message });
      continue;
    }
    const members = state.members.get(into);
    for (const [name, member] of found) {
      if (members === undefined || members.has(name)) continue;
      members.set(name, member);
      into[name] = (each as Readonly<Record<string, unknown>>)[name];
    }
  }
}
