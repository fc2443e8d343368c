import { setTimeout } from "node:timers/promises";
import type { Diagnostic } from "../diagnostic.ts";
import type { DomainMacs, Lease } from "../leases/lease.ts";
import type { Network } from "../leases/network.ts";
import { parsePortMap } from "../config/parse-port-map.ts";
import type { PortMap } from "../config/port-map.ts";
import { checkLoopback } from "../forwards/check-loopback.ts";
import { findAddressesOutsideNetworks } from "../forwards/check-subnets.ts";
import { ConfigError } from "../errors.ts";
import type { ConfigFile, Host, LeaseFiles, Links } from "../host-interface.ts";

/** The last good inputs. A pass that fails to read some of them again uses these. */
export interface Snapshot {
  readonly portMap: PortMap;
  /** The text that `portMap` was read from. */
  readonly configText: string;
  /** What it is warned of. */
  readonly warnings: readonly Diagnostic<string>[];
  readonly bridges: ReadonlyMap<string, LastGood>;
}

interface LastGood {
  readonly leases: readonly Lease[] | undefined;
  readonly domains: readonly DomainMacs[] | undefined;
}

/** An editor may truncate a file and then write it: what is younger than this is not yet believed. */
const SETTLED_MS = 100;

/** A config that cannot be true of the networks that were up when it was read. */
export interface RejectedConfig {
  readonly configText: string;
  readonly error: ConfigError;
}

export interface ConfigReading {
  readonly portMap: PortMap;
  readonly configText: string;
  /** Why the file is not in force; the last good one is. */
  readonly error?: ConfigError;
  readonly refused?: RejectedConfig;
  readonly warnings: readonly Diagnostic<string>[];
  /** The file may still be being written: look again then (epoch ms). */
  readonly lookAgainAtMs?: number;
}

/**
 * Reads the config, or says why the last good one stays in force.
 *
 * A new one must also fit the networks that are up. Not so at start: a host that boots has no networks yet, one whose
 * network was renumbered has the config of before, and in either case there is nothing better than to serve all other
 * guests. What does not fit is pending then, and told.
 * @param refused what did not fit the last time: it stays refused until it is certain to fit, for a network that goes
 *   down makes no config better
 * @throws ConfigError when there is no last good one, KvmnatdError when the host's links cannot be read
 */
export async function readPortMap(
  host: Host,
  last: Snapshot | undefined,
  refused?: RejectedConfig,
): Promise<ConfigReading> {
  try {
    const file = await host.readConfig();
    if (last === undefined) return await loadFirst(file, host);
    const ageMs = host.now() - file.changedAtMs;
    if (file.text !== last.configText && ageMs >= 0 && ageMs < SETTLED_MS)
      return { ...last, lookAgainAtMs: file.changedAtMs + SETTLED_MS };
    if (file.text === last.configText && file.untrusted === undefined) return last;
    const reading = loadPortMap(file, host);
    const refusal = await rejectUnusable(host, reading, last, refused);
    return refusal === undefined ? reading : { ...last, error: refusal.error, refused: refusal };
  } catch (error) {
    if (last === undefined || !(error instanceof ConfigError)) throw error;
    return { ...last, error };
  }
}

async function rejectUnusable(
  host: Host,
  { portMap, configText }: ConfigReading,
  last: Snapshot,
  refused: RejectedConfig | undefined,
): Promise<RejectedConfig | undefined> {
  const [files, links] = await Promise.all([host.readLeaseFiles(portMap.networks), host.readLinks()]);
  const networks = knownBridges(mergeBridges(last, files, links, portMap.networks), links);
  const { diagnostics, isCertain } = findAddressesOutsideNetworks(portMap, networks, files.folder === "read");
  if (diagnostics.length > 0)
    return { configText, error: configError(host.configPath, diagnostics, configText) };
  return !isCertain && refused?.configText === configText ? refused : undefined;
}

/** At start there is no other config: one that an editor may be in the middle of saving gets a second chance. */
async function loadFirst(file: ConfigFile, host: Host): Promise<ConfigReading> {
  try {
    return loadPortMap(file, host);
  } catch (error) {
    const ageMs = host.now() - file.changedAtMs;
    if (!(error instanceof ConfigError) || ageMs < 0 || ageMs >= SETTLED_MS) throw error;
    await setTimeout(SETTLED_MS - ageMs);
    return loadPortMap(await host.readConfig(), host);
  }
}

/**
 * A config that is trusted and right.
 * @throws ConfigError with every fault
 */
function loadPortMap(file: ConfigFile, host: Pick<Host, "isCron" | "configPath">): ConfigReading {
  const { text, untrusted } = file;
  if (untrusted !== undefined) {
    const diagnostic: Diagnostic<string> = { ...untrusted, severity: "error" };
    throw new ConfigError(`${host.configPath}: ${diagnostic.message}`, [diagnostic], "");
  }
  const { value, diagnostics } = parsePortMap(text, host.configPath, host);
  if (value === undefined) throw configError(host.configPath, diagnostics, text);
  return { portMap: value, configText: text, warnings: [...diagnostics, ...checkLoopback(value)] };
}

function configError(file: string, diagnostics: readonly Diagnostic<string>[], text: string): ConfigError {
  return new ConfigError(`${file}: ${summary(diagnostics)}`, diagnostics, text);
}

function summary(diagnostics: readonly Diagnostic<string>[]): string {
  const errors = diagnostics.filter((diagnostic) => diagnostic.severity === "error");
  const [first] = errors;
  const place = first?.where?.line === undefined ? "" : `line ${first.where.line}: `;
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more; run \`kvmnatd check\`)` : "";
  return `${place}${first?.message ?? "unusable"}${more}`;
}

/** What is known of each bridge: what was read now, or the last good where nothing could be read. `served`: the config's `networks`. */
export function mergeBridges(
  last: Snapshot | undefined,
  { bridges: files, folder }: LeaseFiles,
  links: Links,
  served: readonly string[] | undefined,
): ReadonlyMap<string, LastGood> {
  const merged = new Map<string, LastGood>();
  for (const [bridge, known] of last?.bridges ?? []) {
    // Its files are gone: a network that was undefined, if the bridge has gone with them.
    const stays = folder === "unreadable" || links.subnets.has(bridge);
    if (stays && served?.includes(bridge) !== false) merged.set(bridge, known);
  }
  for (const { bridge, leases, domains } of files) {
    const known = last?.bridges.get(bridge);
    merged.set(bridge, { leases: leases ?? known?.leases, domains: domains ?? known?.domains });
  }
  return merged;
}

/**
 * @param unlisted bridges of which libvirt's folder would tell, if it could be read: those that are up are networks of
 *   which nothing else is known
 */
export function knownBridges(
  bridges: ReadonlyMap<string, LastGood>,
  links: Links,
  unlisted: Iterable<string> = [],
): readonly Network[] {
  const unknown = [...unlisted].filter((bridge) => links.subnets.has(bridge) && !bridges.has(bridge));
  return [...unknown.map((bridge) => [bridge, NOTHING_KNOWN] as const), ...bridges].map(
    ([bridge, known]) => ({
      bridge,
      subnets: links.subnets.get(bridge) ?? [],
      ...known,
    }),
  );
}

const NOTHING_KNOWN: LastGood = { leases: undefined, domains: undefined };
