import { formatCidr, formatPorts, LOOPBACK, formatHostPort } from "../net/address.ts";
import type { Cidr, Family, Ip } from "../net/address.ts";
import { nftForwardRules } from "./libvirt-table.ts";
import type { Network } from "../leases/network.ts";
import { GUARD_COMMENT, JUMP_COMMENT, ownerComment, sharedComment } from "./ownership.ts";
import type { Guest, PortMap } from "../config/port-map.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import { NOTHING_DESIRED } from "./ruleset.ts";
import type { Desired, Jump, RuleText } from "./ruleset.ts";

/*
 * What we own, and the way of a packet from a client to a guest:
 *
 *   nat PREROUTING --(to a local address)--> KVMNATD-DNAT --> guest's address      nat OUTPUT likewise, for the host itself
 *   filter FORWARD --(before what rejects)-> KVMNATD-FWD  --> accept, if DNATed
 *   nat POSTROUTING -----------------------> KVMNATD-SNAT --> masquerade, only where the answer would miss us
 */
const DNAT = "KVMNATD-DNAT";
const SNAT = "KVMNATD-SNAT";
const FWD = "KVMNATD-FWD";

type Reach = PortMap["reach"];

/** A network's bridge with one of its subnets: what the constant rules are made for. */
interface Link {
  readonly bridge: string;
  readonly cidr: Cidr;
}

/**
 * Resolved forwards x networks -> the ruleset of one family.
 * @param nftBridges those whose rules libvirt keeps in its own nftables table
 *
 * Nothing at all where the family is not used or no network is up: a chain made before libvirt's own
 * would only have to be moved when libvirt puts its jumps in front of it.
 */
export function buildDesired(
  portMap: PortMap,
  forwards: readonly ResolvedForward[],
  networks: readonly Network[],
  family: Family,
  nftBridges: ReadonlySet<string>,
): Desired {
  const links = linksOf(networks, family);
  const ours = forwards.filter((forward) => forward.family === family);
  if (links.length === 0 || ours.length === 0) return NOTHING_DESIRED;
  const { reach } = portMap;
  const loopback = reach.loopback && family === 4;
  const guests = new Map(portMap.guests.map((guest) => [guest.name, guest]));
  const dnat = [
    ...(reach.guests ? [] : links.map((link) => notFromGuests(link.bridge))),
    ...ours.flatMap((forward) => dnatRules(forward, guests)),
  ];
  const snat = links.flatMap((link) => snatRules(link, reach, loopback));
  return {
    chains: {
      raw: new Map(),
      filter: new Map([[FWD, links.flatMap(forwardRules)]]),
      nat: new Map([[DNAT, unique(dnat)], ...(snat.length === 0 ? [] : [[SNAT, snat] as const])]),
    },
    jumps: [...jumps(links, reach, loopback, snat.length > 0), ...(loopback ? guards(links) : [])],
    libvirt: links
      .filter((link) => nftBridges.has(link.bridge))
      .flatMap(({ bridge, cidr }) => nftForwardRules(bridge, cidr)),
  };
}

/** A bridge may have several addresses in one subnet; two equal rules would be one too many for ever. */
function linksOf(networks: readonly Network[], family: Family): readonly Link[] {
  const links = networks.flatMap(({ bridge, subnets }) =>
    subnets
      .map(({ cidr }) => cidr)
      .filter((cidr) => cidr.family === family)
      .map((cidr): Link => ({ bridge, cidr })),
  );
  return [...new Map(links.map((link) => [`${link.bridge} ${formatCidr(link.cidr)}`, link])).values()];
}

function jumps(links: readonly Link[], reach: Reach, loopback: boolean, snat: boolean): readonly Jump[] {
  const mark = comment(JUMP_COMMENT);
  const bridges = unique(links.map((link) => link.bridge));
  const out: Jump[] = [
    { table: "filter", chain: "FORWARD", rule: `${mark} -j ${FWD}`, mustPrecedeRejectsFor: bridges },
    { table: "nat", chain: "PREROUTING", rule: `-m addrtype --dst-type LOCAL ${mark} -j ${DNAT}` },
  ];
  const ipv4 = links.some((link) => link.cidr.family === 4);
  const notLoopback = ipv4 ? "! -d 127.0.0.0/8" : "! -d ::1/128";
  if (reach.host)
    out.push({
      table: "nat",
      chain: "OUTPUT",
      rule: `${notLoopback} -m addrtype --dst-type LOCAL ${mark} -j ${DNAT}`,
    });
  if (loopback) out.push({ table: "nat", chain: "OUTPUT", rule: `-d ${LOOPBACK}/32 ${mark} -j ${DNAT}` });
  if (snat) out.push({ table: "nat", chain: "POSTROUTING", rule: `${mark} -j ${SNAT}` });
  return out;
}

/** One rule a host address and source; a range is one rule. */
function dnatRules(resolved: ResolvedForward, guests: ReadonlyMap<string, Guest>): readonly RuleText[] {
  const { forward, target } = resolved;
  const guest = guests.get(forward.guest);
  if (target === undefined || guest === undefined) return [];
  const addresses: readonly (Ip | undefined)[] =
    resolved.hostAddresses.length === 0 ? [undefined] : resolved.hostAddresses;
  const hosts = addresses.map((ip) =>
    ip === undefined ? "" : `-d ${ip}/${resolved.family === 4 ? 32 : 128} `,
  );
  const allowed = forward.allow.filter((cidr) => cidr.family === resolved.family);
  // iptables-save does not print a source that is everybody.
  const everybody = forward.allow.length === 0 || allowed.some((cidr) => cidr.prefix === 0);
  const sources = everybody ? [""] : allowed.map((cidr) => `-s ${formatCidr(cidr)} `);
  const { protocol } = forward;
  const match = `-p ${protocol} -m ${protocol} --dport ${formatPorts(forward.published, ":")}`;
  const owner = comment(ownerComment(guest, target.mac));
  return hosts.flatMap((host) =>
    sources.map(
      (source) => `${source}${host}${match} ${owner} -j DNAT --to-destination ${destination(resolved)}`,
    ),
  );
}

/** `ADDRESS:PORT`; a shifted range is `ADDRESS:FIRST-LAST/BASE`, an unshifted one keeps the port by saying none. */
function destination({ forward, target }: ResolvedForward): string {
  const { published, target: ports } = forward;
  const address = target?.address ?? "";
  const single = ports.first === ports.last;
  if (!single && ports.first === published.first) return address;
  return formatHostPort(address, `${formatPorts(ports)}${single ? "" : `/${published.first}`}`);
}

/** Accepts what was redirected, and the answers to it, where FORWARD's policy or libvirt would not. */
function forwardRules({ bridge, cidr }: Link): readonly RuleText[] {
  const mark = comment(sharedComment(bridge));
  const subnet = formatCidr(cidr);
  return [
    `-d ${subnet} -o ${bridge} -m conntrack --ctstate DNAT ${mark} -j ACCEPT`,
    `-s ${subnet} -i ${bridge} -m conntrack --ctstate DNAT --ctdir REPLY ${mark} -j ACCEPT`,
  ];
}

/** Guests of one network answer each other directly, past us; so would a guest answer 127.0.0.1. */
function snatRules({ bridge, cidr }: Link, reach: Reach, loopback: boolean): readonly RuleText[] {
  const mark = comment(sharedComment(bridge));
  const subnet = formatCidr(cidr);
  const rule = (source: string): RuleText =>
    `-s ${source} -d ${subnet} -o ${bridge} -m conntrack --ctstate DNAT ${mark} -j MASQUERADE`;
  return [...(reach.guests ? [rule(subnet)] : []), ...(loopback ? [rule("127.0.0.0/8")] : [])];
}

function notFromGuests(bridge: string): RuleText {
  return `-i ${bridge} ${comment(sharedComment(bridge))} -j RETURN`;
}

/** route_localnet, which loopback needs, would let guests reach the host's own 127.0.0.1 but for this. */
function guards(links: readonly Link[]): readonly Jump[] {
  return unique(links.map((link) => link.bridge)).map((bridge) => ({
    table: "raw",
    chain: "PREROUTING",
    rule: `-d 127.0.0.0/8 -i ${bridge} ${comment(GUARD_COMMENT)} -j DROP`,
    mustPrecedeAcceptsFor: bridge,
  }));
}

function comment(text: string): string {
  return `-m comment --comment "${text}"`;
}

function unique<T>(values: readonly T[]): readonly T[] {
  return [...new Set(values)];
}
