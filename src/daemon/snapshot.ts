import { setTimeout } from "node:timers/promises";
import type { Issue } from "../core/issue.ts";
import type { DomainMacs, Lease } from "../core/lease.ts";
import type { Network } from "../core/network.ts";
import { parsePortMap } from "../core/parse-port-map.ts";
import type { PortMap } from "../core/port-map.ts";
import { ConfigError } from "../errors.ts";
import type { BridgeFiles, ConfigFile, Host, Links } from "../ports.ts";

/** The last good inputs. A pass may fail to read some of them anew; it then works with these. */
export interface Snapshot {
  readonly portMap: PortMap;
  /** The text that `portMap` was read from. */
  readonly configText: string;
  readonly bridges: ReadonlyMap<string, LastGood>;
}

interface LastGood {
  readonly leases: readonly Lease[] | undefined;
  readonly domains: readonly DomainMacs[] | undefined;
}

/** An editor may truncate a file and then write it: what is younger than this is not yet believed. */
const SETTLED_MS = 100;

export interface ConfigReading {
  readonly portMap: PortMap;
  readonly configText: string;
  /** Why the file is not in force; the last good one is. */
  readonly error?: ConfigError;
  readonly warnings: readonly Issue[];
  /** The file may still be being written: look again then (epoch ms). */
  readonly lookAgainAtMs?: number;
}

/**
 * Reads the config, or says why the last good one stays in force.
 * @throws ConfigError when there is no last good one
 */
export async function readPortMap(host: Host, last: Snapshot | undefined): Promise<ConfigReading> {
  try {
    const file = await host.readConfig();
    if (last === undefined) return await loadFirst(file, host);
    const ageMs = host.now() - file.changedAtMs;
    if (file.text !== last.configText && ageMs >= 0 && ageMs < SETTLED_MS)
      return { ...last, warnings: [], lookAgainAtMs: file.changedAtMs + SETTLED_MS };
    return file.text === last.configText && file.untrusted === undefined
      ? { ...last, warnings: [] }
      : loadPortMap(file, host);
  } catch (error) {
    if (last === undefined || !(error instanceof ConfigError)) throw error;
    return { ...last, warnings: [], error };
  }
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
    const issue: Issue = { ...untrusted, severity: "error" };
    throw new ConfigError(`${host.configPath}: ${issue.message}`, [issue], "");
  }
  const { value, issues } = parsePortMap(text, host.configPath, host);
  if (value === undefined) throw new ConfigError(`${host.configPath}: ${summary(issues)}`, issues, text);
  return { portMap: value, configText: text, warnings: issues };
}

function summary(issues: readonly Issue[]): string {
  const errors = issues.filter((issue) => issue.severity === "error");
  const [first] = errors;
  const place = first?.where.line === undefined ? "" : `line ${first.where.line}: `;
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more; run \`kvmnatd check\`)` : "";
  return `${place}${first?.message ?? "unusable"}${more}`;
}

/** What is known of each bridge: what was read now, or the last good where nothing could be read. `served`: the config's `networks`. */
export function mergeBridges(
  last: Snapshot | undefined,
  files: readonly BridgeFiles[],
  links: Links,
  served: readonly string[] | undefined,
): ReadonlyMap<string, LastGood> {
  const merged = new Map<string, LastGood>();
  for (const [bridge, known] of last?.bridges ?? []) {
    // Its files are gone: a network that was undefined, if the bridge has gone with them.
    if (links.subnets.has(bridge) && served?.includes(bridge) !== false) merged.set(bridge, known);
  }
  for (const { bridge, leases, domains } of files) {
    const known = last?.bridges.get(bridge);
    merged.set(bridge, { leases: leases ?? known?.leases, domains: domains ?? known?.domains });
  }
  return merged;
}

export function toNetworks(bridges: ReadonlyMap<string, LastGood>, links: Links): readonly Network[] {
  return [...bridges].map(([bridge, known]) => ({
    bridge,
    subnets: links.subnets.get(bridge) ?? [],
    ...known,
  }));
}
