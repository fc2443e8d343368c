import type { Diagnostic, Parsed, SourceLocation } from "../../diagnostic.ts";
import { createError } from "../../diagnostic.ts";
import { indexLines } from "./line-index.ts";
import { describeYamlError } from "./messages.ts";
import { indexTree, locate, parseTree, toValue } from "./tree.ts";
import type { Path } from "./tree.ts";

/** A YAML text as plain values, with the place of each. */
export interface YamlDocument {
  /** Objects, arrays, null and text. A scalar is its source text. */
  readonly value: unknown;
  /** The place of the value at the path, or of the nearest existing value above it. */
  place(path: Path): SourceLocation;
  /** The place of the key at the path. */
  keyPlace(path: Path): SourceLocation;
}

type PlaceOf = (offset: number) => SourceLocation & { readonly line: number };

/** Maximum size of a config. The file reader checks the size too, but a pipe has none. */
const MAX_BYTES = 1024 * 1024;

/** Errors that leave the tree usable, so that the rest can be checked too. */
const USABLE_WITH: ReadonlySet<string> = new Set([
  "yaml-tag",
  "yaml-documents",
  "duplicate-key",
  "key-forbidden",
]);

/**
 * Parses YAML 1.2 with anchors and merge keys.
 * @returns undefined as value when the text is not valid YAML, empty or larger than 1 MiB
 */
export function parseYaml(source: string, file: string): Parsed<YamlDocument | undefined> {
  const bytes = new TextEncoder().encode(source).length;
  if (bytes > MAX_BYTES) return { value: undefined, diagnostics: [largeConfig(file, bytes)] };
  const text = source.replace(/^\uFEFF/, "");
  const document = parseTree(text);
  // The library's own LineCounter loses lines that follow a syntax error.
  const positionOf = indexLines(text);
  const placeOf: PlaceOf = (offset) => ({ file, ...positionOf(offset) });
  const diagnostics = readErrors(document, text, placeOf);
  if (!diagnostics.every(leavesTreeUsable)) return { value: undefined, diagnostics };
  const index = indexTree(document, (offset) => placeOf(offset).line);
  for (const { offset, code, message } of index.errors)
    diagnostics.push(createError(code, message, placeOf(offset)));
  if (!diagnostics.every(leavesTreeUsable)) return { value: undefined, diagnostics };
  const value = toValue(document.contents, index);
  if (value === null) return { value: undefined, diagnostics: [...diagnostics, emptyConfig(file)] };
  const place = (path: Path): SourceLocation => placeOf(locate(document.contents, path, index).value);
  const keyPlace = (path: Path): SourceLocation => placeOf(locate(document.contents, path, index).key);
  return { value: { value, place, keyPlace }, diagnostics };
}

function leavesTreeUsable({ code }: Diagnostic<string>): boolean {
  return USABLE_WITH.has(code);
}

/** An empty file is an error: an editor that truncates before it writes must not remove every forward for a moment. */
function emptyConfig(file: string): Diagnostic<string> {
  const message = "the config is empty; write `guests: {}` for none";
  return createError("config-empty", message, { file });
}

function largeConfig(file: string, bytes: number): Diagnostic<string> {
  const message = `the config is ${bytes} bytes long; the maximum is ${MAX_BYTES}`;
  return createError("config-large", message, { file });
}

/** Returns the first error of each line: further errors on a line are mostly its consequences. */
function readErrors(
  { errors, warnings }: ReturnType<typeof parseTree>,
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
