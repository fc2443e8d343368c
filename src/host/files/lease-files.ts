import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Parsed } from "../../diagnostic.ts";
import { createError } from "../../diagnostic.ts";
import { LEASE_FILE_MAX_BYTES, parseDomainMacs, parseLeases } from "../../leases/parse-lease-files.ts";
import type { LeaseFault } from "../../leases/parse-lease-files.ts";
import { errnoOf } from "../../errors.ts";
import type { BridgeFiles, LeaseFiles } from "../../host-interface.ts";

/** A bridge's name goes into rules: nothing but what an interface is really named. */
const BRIDGE_FILE = /^([A-Za-z0-9_.:-]{1,15})\.(?:status|macs)$/;

/** Files of a bridge and of a network, as libvirt names them. */
const LIBVIRT_FILE = /^[\w.:-]+\.(?:status|macs|conf|hostsfile|addnhosts)$/;

/**
 * Names a changed file of libvirt's folder for the log. Only a file that libvirt names so keeps its own name, because other
 * programs can put files there.
 */
export function nameLeaseFile(path: string): string {
  const name = basename(path);
  return LIBVIRT_FILE.test(name) ? name : "dnsmasq folder";
}

/**
 * Reads libvirt's lease and domain files.
 * @param folder libvirt's dnsmasq folder; it does not exist before the first network start
 * @param bridges those to serve; undefined: every bridge with a lease file
 */
export async function readLeaseFiles(
  folder: string,
  bridges: readonly string[] | undefined,
): Promise<LeaseFiles> {
  const listing: Listing =
    bridges === undefined ? await listBridges(folder) : { names: bridges, folder: "read", diagnostics: [] };
  const { names, ...rest } = listing;
  return { bridges: await Promise.all(names.map((bridge) => readBridge(folder, bridge))), ...rest };
}

type Listing = Omit<LeaseFiles, "bridges"> & { readonly names: readonly string[] };

async function listBridges(folder: string): Promise<Listing> {
  try {
    const names = await readdir(folder);
    const bridges = names.flatMap((name) => BRIDGE_FILE.exec(name)?.[1] ?? []);
    return { names: [...new Set(bridges)].toSorted(), folder: "read", diagnostics: [] };
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    if (code === "ENOENT") return { names: [], folder: "missing", diagnostics: [] };
    const message = `cannot be read (${code}): what was known of its networks stays in force; kvmnatd needs root or the right to read it`;
    return {
      names: [],
      folder: "unreadable",
      diagnostics: [createError("lease-folder", message, { file: folder })],
    };
  }
}

/**
 * Domains that libvirt runs.
 * @param folders its drivers' state: `NAME.xml` for each running domain (libvirt 9.0 to 12.8)
 * @returns undefined where no driver keeps any, or one does not let us look: a domain that is not seen may run there
 */
export async function readRunningDomains(
  folders: readonly string[],
): Promise<ReadonlySet<string> | undefined> {
  const lists = await Promise.all(folders.map((folder) => listFolder(folder)));
  if (lists.includes("unreadable")) return undefined;
  const known = lists.filter((names) => typeof names !== "string");
  if (known.length === 0) return undefined;
  return new Set(known.flat().flatMap((name) => (name.endsWith(".xml") ? [name.slice(0, -4)] : [])));
}

async function listFolder(folder: string): Promise<readonly string[] | "absent" | "unreadable"> {
  try {
    return await readdir(folder);
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    return code === "ENOENT" ? "absent" : "unreadable";
  }
}

async function readBridge(folder: string, bridge: string): Promise<BridgeFiles> {
  const [leases, domains] = await Promise.all([
    readParsed(join(folder, `${bridge}.status`), (bytes, file) => parseLeases(bytes, file, bridge)),
    readParsed(join(folder, `${bridge}.macs`), (bytes, file) => parseDomainMacs(bytes, file, bridge)),
  ]);
  return {
    bridge,
    leases: leases.value,
    domains: domains.value,
    diagnostics: [...leases.diagnostics, ...domains.diagnostics],
  };
}

async function readParsed<T>(
  file: string,
  parse: (bytes: Uint8Array, file: string) => Parsed<T | undefined, LeaseFault>,
): Promise<Parsed<T | undefined, LeaseFault>> {
  try {
    const stats = await stat(file);
    // Opening a named pipe waits for a writer.
    if (!stats.isFile()) return unread(file, "is not a file");
    const { size } = stats;
    if (size > LEASE_FILE_MAX_BYTES)
      return unread(file, `is ${size} bytes; libvirt itself reads 32 MiB at most`);
    return parse(await readFile(file), file);
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    // libvirt creates each file with its first row.
    if (code === "ENOENT") return { value: undefined, diagnostics: [] };
    return unread(file, `cannot be read (${code})`);
  }
}

function unread(file: string, message: string): Parsed<undefined, LeaseFault> {
  const kept = `${message}; what was known before stays in force until it expires`;
  return {
    value: undefined,
    diagnostics: [createError("lease-file", kept, { file })],
  };
}
