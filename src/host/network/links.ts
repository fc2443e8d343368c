import { networkOf, parseIp } from "../../net/address.ts";
import type { Ip } from "../../net/address.ts";
import type { Subnet } from "../../leases/network.ts";
import type { Launcher } from "../exec/launcher.ts";
import { readIpJson } from "./ip-json.ts";
import type { FollowCommand, Follower } from "../exec/follow-command.ts";
import { untilListens } from "../netfilter/netlink-sockets.ts";
import type { Links } from "../../host-interface.ts";

interface AddressRow {
  readonly local?: string;
  readonly prefixlen?: number;
  readonly scope?: string;
}

interface LinkRow {
  readonly ifindex?: number;
  readonly ifname?: string;
  readonly flags?: readonly string[];
  readonly addr_info?: readonly AddressRow[];
}

/** Reads the host's links. Node's os.networkInterfaces() omits bridges without carrier, and so those without guests. */
export async function readLinks(launcher: Launcher): Promise<Links> {
  const addresses = new Map<string, readonly Ip[]>();
  const indexes = new Map<string, number>();
  const subnets = new Map<string, readonly Subnet[]>();
  for (const link of await readIpJson<LinkRow>(launcher, "address", "show")) {
    const { ifname: name, ifindex, addr_info: rows = [], flags } = link;
    if (name === undefined) continue;
    const own = rows.flatMap(toSubnet);
    // Names that are not valid UTF-8 may become equal.
    addresses.set(name, [...(addresses.get(name) ?? []), ...own.map((subnet) => subnet.own)]);
    if (flags?.includes("UP") !== true) continue;
    subnets.set(name, [...(subnets.get(name) ?? []), ...own]);
    if (ifindex !== undefined) indexes.set(name, ifindex);
  }
  return { addresses, indexes, subnets };
}

/** Omits link-local addresses: no port can be published on them. */
function toSubnet(row: AddressRow): readonly Subnet[] {
  const own = parseIp(row.local ?? "");
  if (own === undefined || row.prefixlen === undefined || row.scope === "link") return [];
  return [{ cidr: networkOf(own, row.prefixlen), own }];
}

export interface LinkWatcher {
  /** A link, an address or the forwarding of the host has changed. */
  readonly onChange: () => void;
  /** Whether the monitor listens; changes before it listens are not reported. */
  readonly onState: (listens: boolean) => void;
}

/** Watches the host's links, addresses and forwarding until the signal. */
export async function watchLinks(
  followCommand: FollowCommand,
  { onChange, onState }: LinkWatcher,
  signal: AbortSignal,
): Promise<void> {
  const follower: Follower = {
    onLine: onChange,
    onRun: async (pid, ended) => {
      await untilListens(pid, "links", ended);
      if (!ended.aborted) onState(true);
    },
    onEnd: () => onState(false),
  };
  await followCommand(["ip", "monitor", "link", "address", "netconf"], follower, signal);
}
