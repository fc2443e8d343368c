import { LOOPBACK, parseIp } from "../net/address.ts";
import type { Diagnostic, SourceLocation } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";
import { formatListen } from "../config/values/listen-address.ts";
import type { PortMap } from "../config/port-map.ts";
import type { YamlDocument } from "../config/yaml/document.ts";
import type { Listen } from "../config/values/listen-address.ts";
import type { HostAddresses } from "../net/address.ts";

/**
 * Addresses, interfaces and bridges that the config names and the host does not have. They are not errors, because they
 * can appear later, but most are typing mistakes.
 * @param document the document that the port map was read from
 * @param known bridges of which libvirt has files, even if they are down
 */
export function findMissingOnHost(
  document: YamlDocument,
  { guests, networks = [] }: PortMap,
  addresses: HostAddresses,
  known: ReadonlySet<string>,
): readonly Diagnostic<string>[] {
  const listens = new Map<string, { readonly listen: Listen; readonly where: SourceLocation }>();
  for (const { listen: own, where } of guests.flatMap(({ forwards }) => forwards))
    for (const listen of own) {
      const name = formatListen(listen);
      if (!listens.has(name))
        listens.set(name, { listen, where: findPlace(document, "listen", name) ?? where });
    }
  const absentListens = [...listens.values()].flatMap(({ listen, where }) => {
    const message = describeAbsent(listen, addresses);
    return message === undefined
      ? []
      : [warning(`${message}: nothing is published on it until it is there`, where)];
  });
  const absentNetworks = networks
    .filter((bridge) => !addresses.has(bridge) && !known.has(bridge))
    .map((bridge) => {
      const where = findPlace(document, "networks", bridge) ?? document.place(["networks"]);
      return warning(
        `there is no bridge ${bridge} on this host (yet), and libvirt has no leases of it`,
        where,
      );
    });
  return [...absentListens, ...absentNetworks];
}

function describeAbsent(listen: Listen, addresses: HostAddresses): string | undefined {
  switch (listen.kind) {
    case "any":
      return undefined;
    case "interface":
      return addresses.has(listen.name)
        ? undefined
        : `there is no interface ${listen.name} on this host (yet)`;
    case "address": {
      const { address } = listen;
      const isOwn = address === LOOPBACK || [...addresses.values()].flat().includes(address);
      return isOwn ? undefined : `${address} is not an address of this host (yet)`;
    }
  }
}

/** Where the config names it: in a list, or as the only value. */
function findPlace(
  document: YamlDocument,
  key: "listen" | "networks",
  name: string,
): SourceLocation | undefined {
  const written = (document.value as Readonly<Record<string, unknown>>)[key];
  const isName = (text: unknown): boolean => typeof text === "string" && (parseIp(text) ?? text) === name;
  if (!Array.isArray(written)) return isName(written) ? document.place([key]) : undefined;
  const index = written.findIndex(isName);
  return index === -1 ? undefined : document.place([key, index]);
}

function warning(message: string, where: SourceLocation): Diagnostic<string> {
  return createWarning("not-here", message, where);
}
