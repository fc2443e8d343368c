import type { Fault, Reading } from "../values/result.ts";
import type { Issue, Place } from "../../diagnostic.ts";
import type { Path, YamlDocument } from "./document.ts";

/** Collects what is wrong with a document while it is read. */
export interface Report {
  readonly issues: readonly Issue[];
  error(where: Place, fault: Fault): void;
  warn(where: Place, fault: Fault): void;
  /** The value that was read at the path; undefined when it was refused, which is noted. */
  take<T>(path: Path, reading: Reading<T>): T | undefined;
  place(path: Path): Place;
  keyPlace(path: Path): Place;
}

export function createReport(document: YamlDocument): Report {
  const issues: Issue[] = [];
  const add = (severity: Issue["severity"], where: Place, fault: Fault): void => {
    issues.push({ code: fault.code, message: fault.message, where, severity });
  };
  return {
    issues,
    error: (where, fault) => add("error", where, fault),
    warn: (where, fault) => add("warning", where, fault),
    take: (path, reading) => {
      if ("value" in reading) return reading.value;
      add("error", document.place(path), reading.fault);
      return undefined;
    },
    place: (path) => document.place(path),
    keyPlace: (path) => document.keyPlace(path),
  };
}

/** In the file's order; a fault of an anchored value that many aliases share is told once. */
export function sortIssues(issues: readonly Issue[]): readonly Issue[] {
  const unique = new Map(
    issues.map((issue) => [
      `${issue.where.line}:${issue.where.column}:${issue.code}:${issue.message}`,
      issue,
    ]),
  );
  return [...unique.values()].toSorted(
    (a, b) => (a.where.line ?? 0) - (b.where.line ?? 0) || (a.where.column ?? 0) - (b.where.column ?? 0),
  );
}
