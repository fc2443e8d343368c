import { isAlias, isCollection, isMap, isPair, isScalar, isSeq, parseDocument, visit } from "yaml";
import type { Alias, Document, Node, Pair, Scalar, YAMLMap } from "yaml";
import type { ParseError } from "../values/result.ts";
import { printable } from "../../sanitize.ts";

export type Path = ReadonlyArray<string | number>;

/** What is wrong with a tree, and the nodes of its paths. */
export interface TreeIndex {
  /** Faults that the library does not report, or reports without a place. */
  readonly errors: Array<ParseError & { readonly offset: number }>;
  /** The node that each alias stands for; an alias with an error is missing. */
  readonly targets: Map<Alias, Node>;
  /** The pairs of each mapping, merged pairs included. */
  readonly members: Map<YAMLMap, Map<string, Pair>>;
}

/** Maximum number of values that aliases may add: far above any config, far below what an alias bomb makes. */
const MAX_ALIASED = 100_000;

/** Parses YAML 1.2 with anchors and merge keys. A scalar is its text, because `on`, `007` and `22:22` mean text here. */
export function parseTree(text: string): Document.Parsed {
  return parseDocument(text, {
    schema: "failsafe",
    customTags: ["null"],
    resolveKnownTags: false,
    stringKeys: true,
    // The library's check is quadratic and does not report where the first of two equal keys is.
    uniqueKeys: false,
    prettyErrors: false,
  });
}

/** Checks keys, aliases and merge keys. A duplicate or forbidden key does not become a member. */
export function indexTree(document: Document.Parsed, lineOf: (offset: number) => number): TreeIndex {
  const index: TreeIndex = { errors: [], targets: new Map(), members: new Map() };
  const anchors = new Map<string, Node>();
  const addAnchor = (node: Node & { readonly anchor?: string }): void => {
    if (node.anchor !== undefined) anchors.set(node.anchor, node);
  };
  visit(document, {
    Value: (_, node) => addAnchor(node),
    Map: (_, map) => {
      addAnchor(map);
      indexKeys(map, index, lineOf);
    },
    Alias: (_, alias, path) => {
      const target = anchors.get(alias.source);
      if (target !== undefined && !path.includes(target)) index.targets.set(alias, target);
      else {
        const why = target === undefined ? "has no anchor above it" : "is inside its own anchor";
        addError(index, alias, "yaml-alias", `the alias *${printable(alias.source)} ${why}`);
      }
    },
  });
  checkAliasedSize(index);
  const merged = new Set<YAMLMap>();
  for (const map of index.members.keys()) mergeMembers(map, index, merged);
  return index;
}

/**
 * Converts a tree to objects, arrays, text and null. Aliases of one anchor share one value.
 * Not the library's toJS(), which searches the whole document for each alias: 90,000 aliases took minutes.
 */
export function toValue(root: Node | null, index: TreeIndex): unknown {
  const values = new Map<unknown, unknown>();
  const convert = (node: unknown): unknown => {
    if (isAlias(node)) return convert(index.targets.get(node));
    if (isScalar(node)) return node.value;
    const known = values.get(node);
    if (known !== undefined) return known;
    const members = isMap(node) ? [...(index.members.get(node) ?? [])] : [];
    const value = isSeq(node)
      ? node.items.map(convert)
      : isMap(node)
        ? Object.fromEntries(members.map(([name, pair]) => [name, convert(pair.value)]))
        : null;
    values.set(node, value);
    return value;
  };
  return convert(root);
}

/** Finds the offsets of the key and the value at a path, or of the member nearest above it. In a list, both are equal. */
export function locate(
  root: Node | null,
  path: Path,
  { targets, members }: TreeIndex,
): { readonly key: number; readonly value: number } {
  let found: Pick<Pair, "key" | "value"> = { key: root, value: root };
  for (const step of path) {
    const parent = dereference(found.value, targets);
    const member = isMap(parent) ? members.get(parent)?.get(String(step)) : itemAt(parent, step);
    if (member === undefined) break;
    found = member;
  }
  const { key, value } = found;
  const isBlank = value === null || (isScalar(value) && value.type === "PLAIN" && value.source === "");
  return { key: offsetOf(key), value: offsetOf(isBlank ? key : value) };
}

/** A list's item, as a pair that has the item as its key too. */
function itemAt(list: unknown, index: string | number): Pick<Pair, "key" | "value"> | undefined {
  const item = isSeq(list) ? list.items[Number(index)] : undefined;
  return item === undefined ? undefined : { key: item, value: item };
}

function indexKeys(map: YAMLMap, index: TreeIndex, lineOf: (offset: number) => number): void {
  const members = new Map<string, Pair>();
  for (const pair of map.items.filter(({ key }) => !isMergeKey(key))) {
    const name = nameOf(pair);
    const earlier = members.get(name);
    if (name === "__proto__") addError(index, pair.key, "key-forbidden", "__proto__ cannot be a key");
    else if (earlier === undefined) members.set(name, pair);
    else {
      const line = lineOf(offsetOf(earlier.key));
      const message = `the key "${printable(name)}" is already at line ${line}; join the two`;
      addError(index, pair.key, "duplicate-key", message);
    }
  }
  index.members.set(map, members);
}

/** `<<: *base` or `<<: [*one, *other]`: own keys win over merged keys, earlier mappings over later ones. */
function mergeMembers(map: YAMLMap, index: TreeIndex, merged: Set<YAMLMap>): void {
  if (merged.has(map)) return;
  merged.add(map);
  const own = index.members.get(map);
  for (const { key, value } of map.items.filter((pair) => isMergeKey(pair.key))) {
    const list = dereference(value, index.targets);
    for (const item of isSeq(list) ? list.items : [list]) {
      const source = dereference(item, index.targets);
      if (!isMap(source)) {
        const message = "<< takes a mapping or a list of mappings, such as <<: *name";
        addError(index, key, "yaml-merge", message);
        continue;
      }
      mergeMembers(source, index, merged);
      for (const [name, pair] of index.members.get(source) ?? [])
        if (own?.has(name) === false) own.set(name, pair);
    }
  }
}

/** Reports the alias that exceeds the limit. */
function checkAliasedSize(index: TreeIndex): void {
  const sizes = new Map<unknown, number>();
  const sizeOf = (node: unknown): number => {
    if (isPair(node)) return sizeOf(node.value);
    if (isAlias(node)) return sizeOf(index.targets.get(node));
    const known = sizes.get(node);
    if (known !== undefined) return known;
    const items: readonly unknown[] = isCollection(node) ? node.items : [];
    const size = items.reduce<number>((sum, item) => sum + sizeOf(item), 1);
    sizes.set(node, size);
    return size;
  };
  let aliased = 0;
  for (const [alias, target] of index.targets) {
    aliased += sizeOf(target);
    if (aliased <= MAX_ALIASED) continue;
    addError(index, alias, "yaml-alias-bomb", `aliases expand to more than ${MAX_ALIASED} values`);
    return;
  }
}

function addError({ errors }: TreeIndex, node: unknown, code: string, message: string): void {
  errors.push({ code, message, offset: offsetOf(node) });
}

function dereference(node: unknown, targets: TreeIndex["targets"]): unknown {
  return isAlias(node) ? targets.get(node) : node;
}

function isMergeKey(key: unknown): boolean {
  return isScalar(key) && key.type === "PLAIN" && key.value === "<<";
}

/** The library rejects a key that is not text. */
function nameOf({ key }: Pair): string {
  return (key as Scalar<string>).value;
}

function offsetOf(node: unknown): number {
  return (node as Node | null)?.range?.[0] ?? 0;
}
