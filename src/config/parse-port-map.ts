import { formatPorts } from "../net/address.ts";
import { parseDuration } from "./values/duration.ts";
import { parseEndpoint } from "./values/endpoint.ts";
import { invalid } from "./values/result.ts";
import type { Parsed } from "../diagnostic.ts";
import { formatListen, parseListen } from "./values/listen-address.ts";
import { parseInterfaceName } from "./values/names.ts";
import { findOverlaps } from "./overlaps.ts";
import type { Overlap } from "./overlaps.ts";
import { uniqueListens } from "./parse-port.ts";
import { parseGuest } from "./parse-guest.ts";
import type { GuestSettings } from "./parse-guest.ts";
import type { Guest, PortMap } from "./port-map.ts";
import { printable } from "../sanitize.ts";
import { createDiagnosticCollector, sortDiagnostics } from "./yaml/diagnostic-collector.ts";
import type { DiagnosticCollector } from "./yaml/diagnostic-collector.ts";
import { validateShape } from "./schema/validate-shape.ts";
import type { RawConfig } from "./schema/schema.ts";
import type { ValidSubset } from "./schema/without-invalid.ts";
import { parseYaml } from "./yaml/document.ts";
import type { YamlDocument } from "./yaml/document.ts";
import type { Listen } from "./values/listen-address.ts";

/** Checks that need a package of the host. */
export interface Checks {
  isCron(expression: string): boolean;
}

export interface ParsedConfig extends Parsed<PortMap | undefined> {
  /** For the places of further diagnostics; undefined when the text is not valid YAML. */
  readonly document: YamlDocument | undefined;
}

/**
 * Parses and checks a config.
 * @param file the path of the text, for the places of diagnostics
 * @returns the port map, undefined when any diagnostic is an error; all diagnostics, in the file's order
 */
export function parsePortMap(text: string, file: string, checks: Checks): ParsedConfig {
  const { value: document, diagnostics } = parseYaml(text, file);
  if (document === undefined)
    return { value: undefined, diagnostics: sortDiagnostics(diagnostics), document };
  const report = createDiagnosticCollector(document);
  const raw = validateShape(document.value, report);
  const portMap = raw && readPortMap(raw, checks, report);
  const all = sortDiagnostics([...diagnostics, ...report.diagnostics]);
  const value = all.some(({ severity }) => severity === "error") ? undefined : portMap;
  return { value, diagnostics: all, document };
}

function readPortMap(raw: ValidSubset<RawConfig>, checks: Checks, report: DiagnosticCollector): PortMap {
  const reach = readReach(raw.reach);
  // An invalid `reach` may have enabled loopback: one mistake must not cause two errors.
  const loopback = reach.loopback || isUnusable(raw, "reach") || isUnusable(raw.reach ?? {}, "loopback");
  const networks = readNetworks(raw.networks, report);
  const listen = isUnusable(raw, "listen") ? undefined : readListen(raw.listen, loopback, report);
  const guests = readGuests(raw.guests ?? {}, { listen, loopback, networks }, report);
  for (const overlap of findOverlaps(guests.flatMap((guest) => guest.forwards)))
    reportOverlap(overlap, report);
  const metrics =
    raw.metrics === undefined ? undefined : report.valueOrDiagnostic(["metrics"], parseEndpoint(raw.metrics));
  return {
    guests,
    networks,
    reach,
    resync: readResync(raw.resync ?? "*/5 * * * *", checks, report),
    lingerMs: report.valueOrDiagnostic(["linger"], parseDuration(raw.linger ?? "5s")) ?? 0,
    onStop: raw.on_stop ?? "keep",
    iptables: raw.iptables ?? "auto",
    metrics,
    logLevel: raw.log_level ?? "info",
  };
}

function isUnusable(parent: object, key: string): boolean {
  return Object.hasOwn(parent, key) && (parent as Readonly<Record<string, unknown>>)[key] === undefined;
}

function readReach(raw: ValidSubset<RawConfig["reach"]>): PortMap["reach"] {
  const isOn = (text: string | undefined, standard: boolean): boolean =>
    text === undefined ? standard : /^(true|on|yes)$/i.test(text);
  return {
    guests: isOn(raw?.guests, true),
    host: isOn(raw?.host, true),
    loopback: isOn(raw?.loopback, false),
  };
}

function readNetworks(
  raw: ValidSubset<RawConfig["networks"]>,
  report: DiagnosticCollector,
): readonly string[] | undefined {
  if (raw === undefined) return undefined;
  const names = raw.flatMap((text, index) =>
    text === undefined
      ? []
      : (report.valueOrDiagnostic(["networks", index], parseInterfaceName(text, "a bridge")) ?? []),
  );
  // With an invalid name among them, the served bridges are unknown.
  return names.length === raw.length ? [...new Set(names)] : undefined;
}

function readListen(
  raw: ValidSubset<RawConfig["listen"]>,
  loopback: boolean,
  report: DiagnosticCollector,
): readonly Listen[] | undefined {
  if (raw === undefined) return [{ kind: "any", family: 4 }];
  const single = typeof raw === "string";
  const texts = single ? [raw] : raw;
  const listens = texts.flatMap((text, index) => {
    const path = single ? ["listen"] : ["listen", index];
    return text === undefined ? [] : (report.valueOrDiagnostic(path, parseListen(text, loopback)) ?? []);
  });
  return listens.length === texts.length ? uniqueListens(listens) : undefined;
}

function readGuests(
  raw: ValidSubset<RawConfig["guests"]>,
  settings: GuestSettings,
  report: DiagnosticCollector,
): readonly Guest[] {
  const guests = Object.entries(raw).flatMap(([name, guest]) =>
    guest === undefined ? [] : [parseGuest(name, guest ?? {}, settings, report)],
  );
  // JavaScript lists keys that look like array indices first. The order of the file is restored.
  return guests.toSorted((a, b) => {
    const [one, other] = [report.keyPlace(["guests", a.name]), report.keyPlace(["guests", b.name])];
    return (one.line ?? 0) - (other.line ?? 0) || (one.column ?? 0) - (other.column ?? 0);
  });
}

function readResync(expression: string, checks: Checks, report: DiagnosticCollector): string {
  const message = `"${printable(expression)}" is not a cron expression; write five fields like */5 * * * *`;
  const reading = checks.isCron(expression) ? { value: expression } : invalid("resync", message);
  return report.valueOrDiagnostic(["resync"], reading) ?? expression;
}

function reportOverlap({ earlier, later }: Overlap, report: DiagnosticCollector): void {
  const other = `${formatPorts(earlier.published)} on ${earlier.listen.map(formatListen).join(", ")}`;
  const message = `${formatPorts(later.published)}/${later.protocol} of guest "${printable(later.guest)}" is also published at line ${earlier.where.line} by guest "${printable(earlier.guest)}" (${other})`;
  report.error(later.where, { code: "port-overlap", message });
}
