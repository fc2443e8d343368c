import { familyOf, formatPorts, parseMac } from "../net/address.ts";
import { invalid } from "./values/result.ts";
import type { ParseResult } from "./values/result.ts";
import { familiesOfListen, parseGuestIp } from "./values/listen-address.ts";
import { parseInterfaceName, parseName } from "./values/names.ts";
import { parseAllow, parseForwards } from "./parse-port.ts";
import type { PortDefaults } from "./parse-port.ts";
import type { Forward, Guest, Identity } from "./port-map.ts";
import { printable } from "../sanitize.ts";
import type { DiagnosticCollector } from "./yaml/diagnostic-collector.ts";
import { knownKeys } from "./schema/schema.ts";
import type { RawGuest } from "./schema/schema.ts";
import type { ValidSubset } from "./schema/without-invalid.ts";

/** Settings of the config that the guests depend on. */
export interface GuestSettings extends Pick<PortDefaults, "listen" | "loopback"> {
  readonly networks: readonly string[] | undefined;
}

/** Maximum length of a guest's name in UTF-8. libvirt accepts longer names, but a rule's comment does not. */
const MAX_NAME_BYTES = 200;
const KINDS = ["domain", "mac", "address", "hostname"] as const;

/**
 * Parses one guest. An invalid value is reported and replaced by a harmless one, so that the checks across guests still
 * see the rest.
 */
export function parseGuest(
  name: string,
  raw: ValidSubset<RawGuest>,
  settings: GuestSettings,
  report: DiagnosticCollector,
): Guest {
  const path = ["guests", name];
  const label = parseName(name, MAX_NAME_BYTES);
  if ("fault" in label) report.error(report.keyPlace(path), label.fault);
  const written = KINDS.filter((kind) => Object.hasOwn(raw, kind));
  const [kind, ...further] = written;
  for (const each of further) reportFurtherIdentity(name, kind ?? each, each, report);
  const network = raw.network === undefined ? undefined : readNetwork(name, raw.network, settings, report);
  const guest: Guest = {
    name,
    identity: readIdentity(name, raw, written, report),
    forwards: readPorts(name, raw, settings, report),
    where: kind === undefined ? report.keyPlace(path) : report.place([...path, kind]),
    network,
  };
  checkFamilies(guest, report);
  checkSources(guest, report);
  return guest;
}

function reportFurtherIdentity(
  name: string,
  kind: string,
  further: string,
  report: DiagnosticCollector,
): void {
  const line = report.place(["guests", name, kind]).line;
  const message = `guest "${printable(name)}" is already found by its ${kind} (line ${line}); keep one of ${kind} and ${further}`;
  report.error(report.place(["guests", name, further]), { code: "two-identities", message });
}

function readIdentity(
  name: string,
  raw: ValidSubset<RawGuest>,
  written: ReadonlyArray<Identity["kind"]>,
  report: DiagnosticCollector,
): Identity {
  const identities = written.map((kind) => {
    const text = raw[kind];
    return text === undefined
      ? undefined
      : report.valueOrDiagnostic(["guests", name, kind], parseIdentity(kind, text));
  });
  return identities[0] ?? { kind: "domain", domain: name };
}

function parseIdentity(kind: Identity["kind"], text: string): ParseResult<Identity> {
  switch (kind) {
    case "domain":
    case "hostname": {
      const name = parseName(text, MAX_NAME_BYTES);
      if ("fault" in name) return name;
      return { value: kind === "domain" ? { kind, domain: text } : { kind, hostname: text } };
    }
    case "mac": {
      const mac = parseMac(text);
      const message = `"${printable(text)}" is not a MAC address of a guest; write one like 52:54:00:6c:3c:01`;
      return mac === undefined ? invalid("mac", message) : { value: { kind, mac } };
    }
    case "address": {
      const address = parseGuestIp(text);
      return "fault" in address ? address : { value: { kind, address: address.value } };
    }
  }
}

function readNetwork(
  name: string,
  text: string,
  { networks }: GuestSettings,
  report: DiagnosticCollector,
): string | undefined {
  const path = ["guests", name, "network"];
  const network = report.valueOrDiagnostic(path, parseInterfaceName(text, "a bridge"));
  if (network === undefined || networks === undefined || networks.includes(network)) return network;
  const message = `the bridge ${network} is not served; add it to networks (${networks.join(", ")})`;
  return report.valueOrDiagnostic(path, invalid("network-not-served", message));
}

function readPorts(
  name: string,
  raw: ValidSubset<RawGuest>,
  settings: GuestSettings,
  report: DiagnosticCollector,
): readonly Forward[] {
  const path = ["guests", name];
  const allow = raw.allow === undefined ? [] : parseAllow([...path, "allow"], raw.allow, report);
  const unusable = Object.hasOwn(raw, "ports") && raw.ports === undefined;
  const ports = raw.ports ?? [];
  // An unknown key may be a misspelled `ports`.
  const known = knownKeys(path);
  if (ports.length === 0 && !unusable && Object.keys(raw).every((key) => known.includes(key))) {
    const message = `guest "${printable(name)}" publishes no port; give it ports, or remove it`;
    report.warn(report.keyPlace(path), { code: "no-ports", message });
  }
  const defaults: PortDefaults = { guest: name, allow, listen: settings.listen, loopback: settings.loopback };
  return ports.flatMap((entry, index) =>
    entry === undefined ? [] : parseForwards([...path, "ports", index], entry, defaults, report),
  );
}

/** A guest that is identified by its address receives only traffic of that family. */
function checkFamilies(guest: Guest, report: DiagnosticCollector): void {
  if (guest.identity.kind !== "address") return;
  const family = familyOf(guest.identity.address);
  for (const { listen, published, where } of guest.forwards) {
    if (listen.some((each) => familiesOfListen(each).includes(family))) continue;
    const everywhere = family === 4 ? "0.0.0.0" : "::";
    const message = `port ${formatPorts(published)} is not published on any IPv${family} address, but the guest's is ${guest.identity.address}; listen on "${everywhere}" or an IPv${family} address of the host`;
    report.error(where, { code: "address-family", message });
  }
}

/** An allowlist without a source of a published family lets no client in. */
function checkSources(guest: Guest, report: DiagnosticCollector): void {
  for (const { listen, allow, published, where } of guest.forwards) {
    const families = new Set(listen.flatMap(familiesOfListen));
    if (allow.length === 0 || allow.some((cidr) => families.has(cidr.family))) continue;
    const on = [...families].map((family) => `IPv${family}`).join(" and ");
    const message = `port ${formatPorts(published)} is published on ${on}, but \`allow\` has no ${on} source, so no client could reach it`;
    report.error(where, { code: "allow-family", message });
  }
}
