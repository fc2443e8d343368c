import { parseIp, parseMac } from "../net/address.ts";
import type { Mac } from "../net/address.ts";
import type { Diagnostic, Parsed } from "../diagnostic.ts";
import { createError, createWarning } from "../diagnostic.ts";
import type { DomainMacs, Lease } from "./lease.ts";
import { printable } from "../sanitize.ts";

/** Maximum size of a lease file: libvirt's own helper reads no more (VIR_NETWORK_DHCP_LEASE_FILE_SIZE_MAX). */
export const LEASE_FILE_MAX_BYTES: number = 32 * 1024 * 1024;

/** Maximum number of diagnostics per file. A hostile guest can cause any number of bad rows. */
const MAX_DIAGNOSTICS = 10;

/** Codes of errors in libvirt's files. */
export type LeaseFault = "lease-folder" | "lease-file" | "lease-row";

type Row<T> = { readonly row: T } | { readonly fault: string };

/**
 * Reads libvirt's `<bridge>.status`.
 * @returns the valid rows, in the file's order; undefined when the whole file is unusable (0 bytes, not JSON, not a
 *   list): the last good leases stay.
 */
export function parseLeases(
  bytes: Uint8Array,
  file: string,
  bridge: string,
): Parsed<readonly Lease[] | undefined, LeaseFault> {
  return parseRows(bytes, file, (row) => parseLease(row, bridge));
}

/** Reads libvirt's `<bridge>.macs`; the same rules as for {@link parseLeases}. */
export function parseDomainMacs(
  bytes: Uint8Array,
  file: string,
  bridge: string,
): Parsed<readonly DomainMacs[] | undefined, LeaseFault> {
  return parseRows(bytes, file, (row) => parseDomain(row, bridge));
}

function parseRows<T>(
  bytes: Uint8Array,
  file: string,
  parseRow: (row: Readonly<Record<string, unknown>>) => Row<T>,
): Parsed<readonly T[] | undefined, LeaseFault> {
  // libvirt leaves 0 bytes after a network's first start. This is not an error.
  if (bytes.length === 0) return { value: undefined, diagnostics: [] };
  const rows = parseJson(bytes);
  if (!Array.isArray(rows)) {
    const what = rows === undefined ? "is not whole JSON (half-written?)" : "is JSON, but not a list of rows";
    const message = `${what}; what was known before stays in force until it expires`;
    return {
      value: undefined,
      diagnostics: [createError("lease-file", message, { file })],
    };
  }
  const good: T[] = [];
  const faults: string[] = [];
  for (const row of rows as unknown[]) {
    const result = isRecord(row) ? parseRow(row) : { fault: "is not an object" };
    if ("row" in result) good.push(result.row);
    else faults.push(`row ${isRecord(row) ? nameRow(row) : ""}left out: ${result.fault}`);
  }
  return { value: good, diagnostics: toDiagnostics(faults, file) };
}

/** Guests send raw bytes as host names, and libvirt >= 11 writes them unchanged: decoding must not fail. */
function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8").decode(bytes)) as unknown;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseLease(row: Readonly<Record<string, unknown>>, bridge: string): Row<Lease> {
  const address = parseIp(text(row["ip-address"]));
  if (address === undefined) return fault("ip-address", row["ip-address"], "an IP address");
  const mac = parseMac(text(row["mac-address"]));
  if (mac === undefined) return fault("mac-address", row["mac-address"], "a 48-bit unicast MAC");
  const expiry = parseExpiry(row["expiry-time"]);
  if (expiry === undefined) return fault("expiry-time", row["expiry-time"], "a time in epoch seconds");
  const hostname = row["hostname"];
  return {
    row: {
      bridge,
      mac,
      address,
      expiresAtMs: expiry === 0 ? undefined : expiry * 1000,
      hostname: typeof hostname === "string" ? hostname : undefined,
    },
  };
}

/** Seconds; 0 or absent is an infinite lease. */
function parseExpiry(value: unknown): number | undefined {
  const seconds = typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : (value ?? 0);
  return typeof seconds === "number" && Number.isFinite(seconds) && seconds >= 0 ? seconds : undefined;
}

function parseDomain(row: Readonly<Record<string, unknown>>, bridge: string): Row<DomainMacs> {
  const { domain, macs } = row as { domain?: unknown; macs?: unknown };
  if (typeof domain !== "string" || domain === "") return fault("domain", domain, "a domain's name");
  if (!Array.isArray(macs)) return fault("macs", macs, "a list of MACs");
  const good = macs.map((mac) => parseMac(text(mac))).filter((mac): mac is Mac => mac !== undefined);
  return { row: { bridge, domain, macs: good } };
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function fault(key: string, value: unknown, wanted: string): { fault: string } {
  if (value === undefined) return { fault: `${key} is missing` };
  // Nested values are not printed: they can be nested 6,000 levels deep.
  const shown =
    typeof value === "object" ? (Array.isArray(value) ? "a list" : "an object") : JSON.stringify(value);
  return { fault: `${key} ${printable(shown)} is not ${wanted}` };
}

/** Names a row by its content: its position changes whenever a guest renews its lease. */
function nameRow(row: Readonly<Record<string, unknown>>): string {
  const names = [row["ip-address"], row["mac-address"], row["domain"]]
    .map(text)
    .filter((name) => name !== "");
  return names.length === 0 ? "" : `of ${printable(names.join(" "), 80)} `;
}

function toDiagnostics(faults: readonly string[], file: string): readonly Diagnostic<LeaseFault>[] {
  const all = [...new Set(faults)].toSorted();
  const more = all.length - MAX_DIAGNOSTICS;
  return [...all.slice(0, MAX_DIAGNOSTICS), ...(more > 0 ? [`${more} more rows left out`] : [])].map(
    (message) => createWarning("lease-row", message, { file }),
  );
}
