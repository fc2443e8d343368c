import type { Diagnostic, Parsed, SourceLocation } from "../../diagnostic.ts";
import { createError } from "../../diagnostic.ts";
import { indexLines } from "./line-index.ts";
import { describeYamlError } from "./messages.ts";
import { indexTree, locate, parseTree, toValue } from "./tree.ts";
import type { Path } from "./tree.ts";

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

/** Maximum size of a config, far above any real one. The reader of the file checks the size too, but a pipe has none. */
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
 * @returns undefined as value when the text is not YAML, is empty or is larger than 1 MiB
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
  if (!diagnostics.every(isTreeSound)) return { value: undefined, diagnostics };
  const index = indexTree(document, (offset) => placeOf(offset).line);
  for (const { offset, code, message } of index.errors)
    diagnostics.push(createError(code, message, placeOf(offset)));
  if (!diagnostics.every(isTreeSound)) return { value: undefined, diagnostics };
  const value = toValue(document.contents, index);
  if (value === null) return { value: undefined, diagnostics: [...diagnostics, emptyConfig(file)] };
  const place = (path: Path): SourceLocation => placeOf(locate(document.contents, path, index).value);
  const keyPlace = (path: Path): SourceLocation => placeOf(locate(document.contents, path, index).key);
  return { value: { value, place, keyPlace }, diagnostics };
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
