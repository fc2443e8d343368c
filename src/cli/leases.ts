import { describeDiagnostic } from "../diagnostic.ts";
import type { Lease } from "../leases/lease.ts";
import { printable } from "../sanitize.ts";
import { EXIT } from "../errors.ts";
import { readLeaseFiles } from "../host/files/lease-files.ts";
import type { Context } from "./context.ts";
import { printJson } from "./context.ts";
import { renderTable } from "./table.ts";

interface Row {
  readonly domain: string | null;
  readonly mac: string;
  /** Null: a running domain's network card without lease. */
  readonly address: string | null;
  readonly hostname: string | null;
  /** ISO 8601; null: infinite, or no lease. */
  readonly expires: string | null;
  readonly network: string;
}

/** `kvmnatd leases`: what is known of each guest. Needs no config: every bridge with a lease file is shown. */
export async function leases(context: Context): Promise<number> {
  const { dnsmasqDir } = context.paths;
  const { bridges, diagnostics, folder } = await readLeaseFiles(dnsmasqDir, undefined);
  const rows = bridges.flatMap(({ bridge, leases: known, domains }) => {
    const domainOf = new Map(domains?.flatMap((row) => row.macs.map((mac) => [mac, row.domain] as const)));
    const leased = (known ?? []).map((lease) => toRow(lease, domainOf.get(lease.mac)));
    const silent = [...domainOf].filter(([mac]) => !known?.some((lease) => lease.mac === mac));
    return [
      ...leased,
      ...silent.map(([mac, domain]): Row => ({ ...NO_LEASE, domain, mac, network: bridge })),
    ];
  });
  for (const diagnostic of [...diagnostics, ...bridges.flatMap((each) => each.diagnostics)])
    context.complain(`kvmnatd: ${describeDiagnostic(diagnostic)}`);
  if (folder === "missing")
    context.complain(
      `kvmnatd: ${dnsmasqDir}: does not exist: libvirt makes it with its first network; is it elsewhere (--dnsmasq-dir)?`,
    );
  if (context.json) printJson(context, rows);
  else if (rows.length === 0) context.print(`no leases in ${dnsmasqDir}`);
  else context.print(renderTable(HEAD, rows.map(toCells)));
  return EXIT.ok;
}

const HEAD = ["DOMAIN", "MAC", "ADDRESS", "HOSTNAME", "EXPIRES", "NETWORK"];
const NO_LEASE = { address: null, hostname: null, expires: null };

function toRow(lease: Lease, domain: string | undefined): Row {
  const { mac, address, hostname, expiresAtMs, bridge } = lease;
  return {
    domain: domain ?? null,
    mac,
    address,
    hostname: hostname ?? null,
    expires: expiresAtMs === undefined || expiresAtMs > 8.64e15 ? null : new Date(expiresAtMs).toISOString(),
    network: bridge,
  };
}

function toCells({ domain, mac, address, hostname, expires, network }: Row): readonly string[] {
  const name = (text: string | null): string => (text === null ? "-" : printable(text, 40));
  const expiry = address === null ? "-" : (expires?.replace("T", " ").slice(0, 19) ?? "never");
  return [name(domain), mac, address ?? "no lease", name(hostname), expiry, network];
}
