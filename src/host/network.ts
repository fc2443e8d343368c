import { networkOf, parseIp } from "../core/address.ts";
import type { Ip } from "../core/address.ts";
import type { Subnet } from "../core/network.ts";
import { followForEver, runCommand } from "./run-command.ts";
import type { Links } from "../ports.ts";

interface AddressRow {
  readonly local?: string;
  readonly prefixlen?: number;
  readonly scope?: string;
}

interface LinkRow {
  readonly ifname?: string;
  readonly flags?: readonly string[];
  readonly addr_info?: readonly AddressRow[];
}

/** Node's os.networkInterfaces() leaves out bridges without carrier, and a bridge without guests has none. */
export async function readLinks(): Promise<Links> {
  const { stdout } = await runCommand(["ip", "-json", "address", "show"]);
  const addresses = new Map<string, readonly Ip[]>();
  const subnets = new Map<string, readonly Subnet[]>();
  for (const link of JSON.parse(stdout) as readonly LinkRow[]) {
    if (link.ifname === undefined) continue;
    const own = (link.addr_info ?? []).flatMap(toSubnet);
    addresses.set(
      link.ifname,
      own.map((subnet) => subnet.own),
    );
    if (link.flags?.includes("UP") === true) subnets.set(link.ifname, own);
  }
  return { addresses, subnets };
}

/** Link-local addresses are left out: nothing can be published on them. */
function toSubnet(row: AddressRow): readonly Subnet[] {
  const own = parseIp(row.local ?? "");
  if (own === undefined || row.prefixlen === undefined || row.scope === "link") return [];
  return [{ cidr: networkOf(own, row.prefixlen), own }];
}

/**
 * Calls `onChange` whenever a link, an address or the forwarding of the host changes, until the signal.
 * @param onState whether the monitor runs
 */
export async function watchLinks(
  onChange: () => void,
  onState: (runs: boolean) => void,
  signal: AbortSignal,
): Promise<void> {
  await followForEver(["ip", "monitor", "link", "address", "netconf"], { onLine: onChange, onState }, signal);
}
