import { printable } from "../../sanitize.ts";
import type { DiagnosticCollector } from "../yaml/diagnostic-collector.ts";
import { findShapeErrors } from "./messages.ts";
import type { RawConfig } from "./schema.ts";
import { withoutInvalid } from "./without-invalid.ts";
import type { ValidSubset } from "./without-invalid.ts";
import type { Path } from "../yaml/tree.ts";

/**
 * Reports every error of the shape.
 * @returns the valid part of the config; undefined when it is not a mapping
 */
export function validateShape(
  value: unknown,
  report: DiagnosticCollector,
): ValidSubset<RawConfig> | undefined {
  const unsupported = findUnsupported(value);
  for (const path of unsupported) {
    const message = `${printable(String(path.at(-1)))} is not supported yet; remove it`;
    report.error(report.keyPlace(path), { code: "not-supported", message });
  }
  const faults = findShapeErrors(value).filter(
    ({ path }) => !unsupported.some((each) => each.every((step, index) => path[index] === step)),
  );
  for (const error of faults)
    report.error(error.atKey ? report.keyPlace(error.path) : report.place(error.path), error);
  const faulty = faults.map(({ path }) => path);
  return withoutInvalid(value, faulty) as ValidSubset<RawConfig> | undefined;
}

/** Finds keys that the schema reserves but kvmnatd does not support yet. */
function findUnsupported(value: unknown): readonly Path[] {
  const config = asMapping(value);
  const guests = asMapping(config["guests"]);
  return [
    ...["sources"].filter((key) => Object.hasOwn(config, key)).map((key) => [key]),
    ...Object.keys(guests)
      .filter((name) => Object.hasOwn(asMapping(guests[name]), "reserve"))
      .map((name) => ["guests", name, "reserve"]),
  ];
}

function asMapping(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}
