import { LOOPBACK } from "../net/address.ts";
import { findAbsent } from "../forwards/check-host.ts";
import { formatIssue } from "../config/code-frame.ts";
import type { Issue } from "../diagnostic.ts";
import { describeOccupied, findOccupied } from "../status/ports-in-use.ts";
import { parsePortMap } from "../config/parse-port-map.ts";
import { describeTaken, placeForwards } from "../forwards/host-addresses.ts";
import type { PortMap } from "../config/port-map.ts";
import { checkLoopback } from "../forwards/check-loopback.ts";
import { findUnserved } from "../forwards/check-subnets.ts";
import { parseYaml } from "../config/yaml/document.ts";
import { mergeBridges, toNetworks } from "../daemon/inputs.ts";
import type { View } from "../daemon/observe.ts";
import { ConfigError, EXIT, KvmnatdError } from "../errors.ts";
import type { Host, Links } from "../host-interface.ts";
import { createHost } from "../host/create-host.ts";
import type { Context } from "./context.ts";

/** `kvmnatd check`: every fault of the config, with its place. */
export async function check(context: Context): Promise<number> {
  const { paths } = context;
  const host = createHost(paths);
  const file = await host.readConfig();
  const { value, issues } = parsePortMap(file.text, paths.config, host);
  const found: Issue[] = [...(file.untrusted === undefined ? [] : [file.untrusted]), ...issues];
  if (value !== undefined)
    found.push(...checkLoopback(value), ...(await checkAgainstHost(host, value, file.text)));
  printIssues(context, found, file.text);
  const errors = found.filter((issue) => issue.severity === "error").length;
  if (errors > 0) return EXIT.config;
  const forwards = value?.guests.reduce((sum, guest) => sum + guest.forwards.length, 0) ?? 0;
  context.print(`${paths.config}: valid (guests ${value?.guests.length ?? 0}, forwards ${forwards})`);
  return EXIT.ok;
}

export function printIssues({ complain, color }: Context, issues: readonly Issue[], text: string): void {
  for (const issue of issues) complain(formatIssue(issue, text, { color }));
}

/** What only this host can tell; what cannot be looked at keeps nobody from the rest, and is said. */
async function checkAgainstHost(host: Host, portMap: PortMap, text: string): Promise<readonly Issue[]> {
  const links = host.readLinks();
  const found = await Promise.all([
    unlessUnseen(host, "guests' addresses", async () => findMisplaced(host, portMap, await links)),
    unlessUnseen(host, "addresses and interfaces", async () => findNotHere(host, portMap, text, await links)),
    unlessUnseen(host, "ports of interfaces", async () => findTaken(portMap, await links)),
    unlessUnseen(host, "ports in use", async () => findInUse(host, portMap, await links)),
  ]);
  return found.flat();
}

async function unlessUnseen(
  { configPath }: Host,
  what: string,
  look: () => Promise<readonly Issue[]>,
): Promise<readonly Issue[]> {
  try {
    return await look();
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    const message = `${what} are not checked: ${error.message}`;
    return [{ code: "not-checked", message, where: { file: configPath }, severity: "warning" }];
  }
}

async function findMisplaced(host: Host, portMap: PortMap, links: Links): Promise<readonly Issue[]> {
  const files = await host.readLeaseFiles(portMap.networks);
  const networks = toNetworks(mergeBridges(undefined, files, links, portMap.networks), links);
  const unread = files.issues.map((issue): Issue => ({ ...issue, severity: "warning" }));
  return [...unread, ...findUnserved(portMap, networks, files.folder === "read").issues];
}

async function findNotHere(
  host: Host,
  portMap: PortMap,
  text: string,
  links: Links,
): Promise<readonly Issue[]> {
  const { value: document } = parseYaml(text, host.configPath);
  const { bridges } = await host.readLeaseFiles(portMap.networks);
  const known = bridges.filter(({ leases, domains }) => leases !== undefined || domains !== undefined);
  if (document === undefined) return [];
  return findAbsent(document, portMap, links.addresses, new Set(known.map(({ bridge }) => bridge)));
}

/** Which addresses an interface has, and so who else is published there, is known here alone. */
function findTaken(portMap: PortMap, { addresses }: Links): readonly Issue[] {
  return [...placeForwards(portMap, addresses)].flatMap(([{ where }, places]) =>
    [places[4], places[6]]
      .flatMap((place) => place?.taken ?? [])
      .filter(({ address }) => address !== LOOPBACK)
      .map((taken) => ({
        code: "port-taken",
        message: `${describeTaken(taken)} (line ${taken.by.where.line}), which stands first; choose another port or address`,
        where,
        severity: "warning",
      })),
  );
}

async function findInUse(host: Host, portMap: PortMap, { addresses }: Links): Promise<readonly Issue[]> {
  const { guests, reach } = portMap;
  const forwards = guests.flatMap((guest) => guest.forwards);
  return findOccupied(forwards, await host.readListeners(), addresses, reach.loopback).map((row) => ({
    code: "port-in-use",
    message: describeOccupied(row),
    where: row.forward.where,
    severity: "warning",
  }));
}

/** @throws ConfigError when a guest's address lies in no served network */
export function refuseUnserved({ unserved, snapshot }: View, file: string): void {
  const [first] = unserved;
  if (first !== undefined) throw new ConfigError(`${file}: ${first.message}`, unserved, snapshot.configText);
}
