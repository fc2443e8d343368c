import { formatIssue } from "../core/code-frame.ts";
import type { Issue } from "../core/issue.ts";
import { refuseAddress } from "../core/network.ts";
import { describeOccupied, findOccupied } from "../core/occupied.ts";
import { parsePortMap } from "../core/parse-port-map.ts";
import type { PortMap } from "../core/port-map.ts";
import { mergeBridges, toNetworks } from "../daemon/snapshot.ts";
import type { View } from "../daemon/observe.ts";
import { ConfigError, EXIT, KvmnatdError } from "../errors.ts";
import type { Network, HostAddresses } from "../core/network.ts";
import type { Host } from "../ports.ts";
import { createHost } from "../wire.ts";
import type { Context } from "./context.ts";

/** `kvmnatd check`: every fault of the config, with its place. */
export async function check(context: Context): Promise<number> {
  const { paths } = context;
  const host = createHost(paths);
  const file = await host.readConfig();
  const { value, issues } = parsePortMap(file.text, paths.config, host);
  const found: Issue[] = [...(file.untrusted === undefined ? [] : [file.untrusted]), ...issues];
  if (value !== undefined) found.push(...(await checkAgainstHost(host, value)));
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

/** What only this host can tell; without the means to look (no iproute2) nothing is said. */
async function checkAgainstHost(host: Host, portMap: PortMap): Promise<readonly Issue[]> {
  try {
    const [files, links, listeners] = await Promise.all([
      host.readLeaseFiles(portMap.networks),
      host.readLinks(),
      host.readListeners(),
    ]);
    const networks = toNetworks(mergeBridges(undefined, files.bridges, links, portMap.networks), links);
    return [...unserved(portMap, networks), ...occupiedIssues(portMap, listeners, links.addresses)];
  } catch (error) {
    if (error instanceof KvmnatdError) return [];
    throw error;
  }
}

function occupiedIssues(
  portMap: PortMap,
  listeners: Parameters<typeof findOccupied>[1],
  addresses: HostAddresses,
): readonly Issue[] {
  return findOccupied(portMap, listeners, addresses).map((row) => ({
    code: "port-in-use",
    message: describeOccupied(row),
    where: row.forward.where,
    severity: "warning",
  }));
}

/** Only where every served network is up: of one that is down nobody knows the addresses. */
function unserved(portMap: PortMap, networks: readonly Network[]): readonly Issue[] {
  if (networks.length === 0 || networks.some((network) => network.subnets.length === 0)) return [];
  return portMap.guests.flatMap((guest): readonly Issue[] => {
    const { identity } = guest;
    if (identity.kind !== "address") return [];
    const served = networks.filter((each) => guest.network === undefined || each.bridge === guest.network);
    const refusals = served.map((network) => refuseAddress(identity.address, network));
    if (served.length === 0 || refusals.includes(undefined)) return [];
    const message = `${identity.address} can be no guest's: ${refusals.join("; ")}`;
    return [{ code: "address-unserved", message, where: guest.where, severity: "error" }];
  });
}

/** @throws ConfigError when a guest's address lies in no served network */
export function refuseUnserved(view: View, file: string): void {
  const issues = unserved(view.snapshot.portMap, view.networks);
  if (issues.length > 0)
    throw new ConfigError(`${file}: ${issues[0]?.message}`, issues, view.snapshot.configText);
}
