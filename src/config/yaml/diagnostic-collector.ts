import { distinctBy } from "../../distinct-by.ts";
import type { ParseError, ParseResult } from "../values/result.ts";
import type { Diagnostic, SourceLocation } from "../../diagnostic.ts";
import type { YamlDocument } from "./document.ts";
import type { Path } from "./tree.ts";

/** Collects diagnostics while a document is parsed. */
export interface DiagnosticCollector {
  readonly diagnostics: readonly Diagnostic<string>[];
  error(where: SourceLocation, fault: ParseError): void;
  warn(where: SourceLocation, fault: ParseError): void;
  /** Returns the parsed value; reports its error at the path and returns undefined when there is none. */
  valueOrDiagnostic<T>(path: Path, reading: ParseResult<T>): T | undefined;
  place(path: Path): SourceLocation;
  keyPlace(path: Path): SourceLocation;
}

export function createDiagnosticCollector(document: YamlDocument): DiagnosticCollector {
  const diagnostics: Diagnostic<string>[] = [];
  const add = (severity: Diagnostic<string>["severity"], where: SourceLocation, fault: ParseError): void => {
    diagnostics.push({ code: fault.code, message: fault.message, where, severity });
  };
  return {
    diagnostics,
    error: (where, fault) => add("error", where, fault),
    warn: (where, fault) => add("warning", where, fault),
    valueOrDiagnostic: (path, reading) => {
      if ("value" in reading) return reading.value;
      add("error", document.place(path), reading.fault);
      return undefined;
    },
    place: (path) => document.place(path),
    keyPlace: (path) => document.keyPlace(path),
  };
}

/** Sorts by place in the file. Aliases repeat the diagnostics of their anchor, so duplicates are removed. */
export function sortDiagnostics(diagnostics: readonly Diagnostic<string>[]): readonly Diagnostic<string>[] {
  const distinct = distinctBy(
    diagnostics,
    ({ where, code, message }) => `${where?.line}:${where?.column}:${code}:${message}`,
  );
  return distinct.toSorted(
    (a, b) => (a.where?.line ?? 0) - (b.where?.line ?? 0) || (a.where?.column ?? 0) - (b.where?.column ?? 0),
  );
}
