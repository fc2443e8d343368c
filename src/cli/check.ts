import { LOOPBACK } from "../net/address.ts";
import { findMissingOnHost } from "../forwards/check-host.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";
import { describePortInUse, findPortsInUse } from "../status/ports-in-use.ts";
import { parsePortMap } from "../config/parse-port-map.ts";
import { describeTaken, assignHostAddresses } from "../forwards/host-addresses.ts";
import type { PortMap } from "../config/port-map.ts";
import { checkLoopback } from "../forwards/check-loopback.ts";
import { findAddressesOutsideNetworks } from "../forwards/check-subnets.ts";
import type { YamlDocument } from "../config/yaml/document.ts";
import { mergeBridges, listNetworks } from "../daemon/inputs.ts";
import { EXIT, KvmnatdError } from "../errors.ts";
import type { Host, LeaseFiles, Links } from "../host-interface.ts";
import { createHost } from "../host/create-host.ts";
import type { Context } from "./context.ts";
import { printDiagnostics } from "./print-diagnostics.ts";

/** `kvmnatd check`: reports every fault of the config with its place. */
export async function check(context: Context, host: Host = createHost(context.paths)): Promise<number> {
  const { paths } = context;
  const file = await host.readConfig();
  const { value, diagnostics, document } = parsePortMap(file.text, paths.config, host);
  const found = file.untrusted === undefined ? [...diagnostics] : [file.untrusted, ...diagnostics];
  if (value !== undefined && document !== undefined)
    found.push(...checkLoopback(value), ...(await checkAgainstHost(host, value, document)));
  await printDiagnostics(context, found, file.text);
  const errors = found.filter((diagnostic) => diagnostic.severity === "error").length;
  if (errors > 0) return EXIT.config;
  const forwards = value?.guests.reduce((sum, guest) => sum + guest.forwards.length, 0) ?? 0;
  context.print(`${paths.config}: valid (guests ${value?.guests.length ?? 0}, forwards ${forwards})`);
  return EXIT.ok;
}

/** Checks the config against this host. A check that fails is reported and does not stop the others. */
async function checkAgainstHost(
  host: Host,
  portMap: PortMap,
  document: YamlDocument,
): Promise<readonly Diagnostic<string>[]> {
  const [links, files] = [host.readLinks(), host.readLeaseFiles(portMap.networks)];
  const found = await Promise.all([
    reportUnchecked(host, "guests' addresses", async () => findMisplaced(portMap, await files, await links)),
    reportUnchecked(host, "addresses and interfaces", async () =>
      findMissing(document, portMap, await files, await links),
    ),
    reportUnchecked(host, "ports of interfaces", async () => findTaken(portMap, await links)),
    reportUnchecked(host, "ports in use", async () => findInUse(host, portMap, await links)),
  ]);
  return found.flat();
}

async function reportUnchecked(
  { configPath }: Host,
  what: string,
  run: () => Promise<readonly Diagnostic<string>[]>,
): Promise<readonly Diagnostic<string>[]> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    const message = `${what} are not checked: ${error.message}`;
    return [createWarning("not-checked", message, { file: configPath })];
  }
}

function findMisplaced(portMap: PortMap, files: LeaseFiles, links: Links): readonly Diagnostic<string>[] {
  const networks = listNetworks(mergeBridges(undefined, files, links, portMap.networks), links);
  const unread = files.diagnostics.map((diagnostic): Diagnostic<string> => ({
    ...diagnostic,
    severity: "warning",
  }));
  return [...unread, ...findAddressesOutsideNetworks(portMap, networks, files.folder === "read")];
}

function findMissing(
  document: YamlDocument,
  portMap: PortMap,
  { bridges }: LeaseFiles,
  links: Links,
): readonly Diagnostic<string>[] {
  const known = bridges.filter(({ leases, domains }) => leases !== undefined || domains !== undefined);
  return findMissingOnHost(document, portMap, links.addresses, new Set(known.map(({ bridge }) => bridge)));
}

/** Finds ports that another forward has on an address of an interface: only this host has those addresses. */
function findTaken(portMap: PortMap, { addresses }: Links): readonly Diagnostic<string>[] {
  return [...assignHostAddresses(portMap, addresses)].flatMap(([{ where }, places]) =>
    [places[4], places[6]]
      .flatMap((place) => place?.taken ?? [])
      .filter(({ address }) => address !== LOOPBACK)
      .map((taken) =>
        createWarning(
          "port-taken",
          `${describeTaken(taken)} (line ${taken.by.where.line}), which stands first; choose another port or address`,
          where,
        ),
      ),
  );
}

async function findInUse(
  host: Host,
  portMap: PortMap,
  { addresses }: Links,
): Promise<readonly Diagnostic<string>[]> {
  const { guests, reach } = portMap;
  const forwards = guests.flatMap((guest) => guest.forwards);
  return findPortsInUse(forwards, await host.readListeners(), addresses, reach.loopback).map((row) =>
    createWarning("port-in-use", describePortInUse(row), row.forward.where),
  );
}
