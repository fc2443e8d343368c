import type { Diagnostic } from "../diagnostic.ts";
import type { DomainMacs, Lease } from "../leases/lease.ts";
import type { Network } from "../leases/network.ts";
import { parsePortMap } from "../config/parse-port-map.ts";
import type { PortMap } from "../config/port-map.ts";
import { checkLoopback } from "../forwards/check-loopback.ts";
import { ConfigError } from "../errors.ts";
import type { ConfigFile, Host, LeaseFiles, Links } from "../host-interface.ts";

/** The last valid inputs. A pass that cannot read a file uses what is here instead. */
export interface Snapshot extends ValidConfig {
  readonly bridges: ReadonlyMap<string, LastGood>;
}

interface ValidConfig {
  readonly portMap: PortMap;
  /** The text that `portMap` was read from. */
  readonly configText: string;
  readonly warnings: readonly Diagnostic<string>[];
}

/** What the files of one bridge contained when they could last be read; undefined: never. */
interface LastGood {
  readonly leases: readonly Lease[] | undefined;
  readonly domains: readonly DomainMacs[] | undefined;
}

/** Minimum age of a changed config before it is read: an editor may truncate the file and then write it. */
const SETTLED_MS = 100;

/** The config in force. */
export interface ConfigReading extends ValidConfig {
  /** Why the file on disk is not in force; undefined when it is. */
  readonly error: ConfigError | undefined;
  /** When to read the file again because it may still be being written, epoch ms. */
  readonly lookAgainAtMs: number | undefined;
}

/**
 * Reads the config. A file with an error, or one that may still be being written, leaves the last valid config in force.
 * @param last undefined at start
 * @throws ConfigError when there is no last valid config
 */
export async function readPortMap(host: Host, last: Snapshot | undefined): Promise<ConfigReading> {
  const inForce = { error: undefined, lookAgainAtMs: undefined };
  try {
    const file = await host.readConfig();
    if (last === undefined) return { ...(await loadFirst(file, host)), ...inForce };
    const ageMs = host.now() - file.changedAtMs;
    if (file.text !== last.configText && ageMs >= 0 && ageMs < SETTLED_MS)
      return { ...last, ...inForce, lookAgainAtMs: file.changedAtMs + SETTLED_MS };
    if (file.text === last.configText && file.untrusted === undefined) return { ...last, ...inForce };
    return { ...loadPortMap(file, host), ...inForce };
  } catch (error) {
    if (last === undefined || !(error instanceof ConfigError)) throw error;
    return { ...last, ...inForce, error };
  }
}

/** At start there is no last valid config: a file that an editor may be saving is read a second time. */
async function loadFirst(file: ConfigFile, host: Host): Promise<ValidConfig> {
  try {
    return loadPortMap(file, host);
  } catch (error) {
    const ageMs = host.now() - file.changedAtMs;
    if (!(error instanceof ConfigError) || ageMs < 0 || ageMs >= SETTLED_MS) throw error;
    await host.sleep(SETTLED_MS - ageMs);
    return loadPortMap(await host.readConfig(), host);
  }
}

/** @throws ConfigError with every error of the file, or when a user other than root could have written it */
function loadPortMap(file: ConfigFile, host: Pick<Host, "isCron" | "configPath">): ValidConfig {
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
  return new ConfigError(`${file}: ${summarizeErrors(diagnostics)}`, diagnostics, text);
}

function summarizeErrors(diagnostics: readonly Diagnostic<string>[]): string {
  const errors = diagnostics.filter((diagnostic) => diagnostic.severity === "error");
  const [first] = errors;
  const place = first?.where?.line === undefined ? "" : `line ${first.where.line}: `;
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more; run \`kvmnatd check\`)` : "";
  return `${place}${first?.message ?? "unusable"}${more}`;
}

/**
 * Merges what was read of each bridge with what could be read before.
 * @param configured the config's `networks`; undefined: all
 */
export function mergeBridges(
  last: Snapshot | undefined,
  { bridges: files, folder }: LeaseFiles,
  links: Links,
  configured: readonly string[] | undefined,
): ReadonlyMap<string, LastGood> {
  const merged = new Map<string, LastGood>();
  for (const [bridge, known] of last?.bridges ?? []) {
    // Without files and without a bridge the network was undefined (virsh net-undefine).
    const stays = folder === "unreadable" || links.subnets.has(bridge);
    if (stays && configured?.includes(bridge) !== false) merged.set(bridge, known);
  }
  for (const { bridge, leases, domains } of files) {
    const known = last?.bridges.get(bridge);
    merged.set(bridge, { leases: leases ?? known?.leases, domains: domains ?? known?.domains });
  }
  return merged;
}

/** @param unlisted bridges assumed to be libvirt networks while the lease folder is unreadable; those that are up count */
export function listNetworks(
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
