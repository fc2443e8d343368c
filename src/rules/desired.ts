import { distinctBy } from "../distinct-by.ts";
import { formatCidr, LOOPBACK } from "../net/address.ts";
import type { Cidr, Family, Ip } from "../net/address.ts";
import { formatDnatRule } from "./dnat-rule.ts";
import type { DnatRule } from "./dnat-rule.ts";
import { buildNftForwardRules } from "./libvirt-table.ts";
import type { Network } from "../leases/network.ts";
import { formatComment, GUARD_COMMENT, JUMP_COMMENT, ownerOf, sharedComment } from "./ownership.ts";
import type { Guest, PortMap } from "../config/port-map.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import { NOTHING_DESIRED } from "./ruleset.ts";
import type { Desired, Jump, RuleText } from "./ruleset.ts";

/*
 * The chains that kvmnatd owns, and the path of a packet from a client to a guest:
 *
 *   nat PREROUTING --(to a local address)--> KVMNATD-DNAT --> guest's address      nat OUTPUT likewise, for the host itself
 *   filter FORWARD --(before rejects)------> KVMNATD-FWD  --> accept, if DNATed
 *   nat POSTROUTING -----------------------> KVMNATD-SNAT --> masquerade, only where the reply would bypass the host
 *   raw PREROUTING  --(a bridge's packets to 127.0.0.0/8)--> dropped, only with reach.loopback
 *
 * The jump in FORWARD precedes rules that reject without a condition, not an administrator's blocklist (docs/rules.md).
 */
const DNAT = "KVMNATD-DNAT";
const SNAT = "KVMNATD-SNAT";
const FWD = "KVMNATD-FWD";

type Reach = PortMap["reach"];

/** A network's bridge with one of its subnets. */
interface BridgeSubnet {
  readonly bridge: string;
  readonly cidr: Cidr;
}

/** What the ruleset is built from. */
export interface RulesetInputs {
  readonly portMap: PortMap;
  readonly forwards: readonly ResolvedForward[];
  readonly networks: readonly Network[];
}

/**
 * Builds the desired ruleset of one family.
 * @param nftBridges bridges whose rules libvirt keeps in its own nftables table
 * @returns nothing when the family is not used or no network is up: libvirt would insert its jumps before a chain that
 * existed earlier, and kvmnatd's jump would only have to move
 */
export function buildDesired(
  { portMap, forwards, networks }: RulesetInputs,
  family: Family,
  nftBridges: ReadonlySet<string>,
): Desired {
  const subnets = listBridgeSubnets(networks, family);
  const own = forwards.filter((forward) => forward.family === family);
  if (subnets.length === 0 || own.length === 0) return NOTHING_DESIRED;
  const reach = { ...portMap.reach, loopback: portMap.reach.loopback && family === 4 };
  const guests = new Map(portMap.guests.map((guest) => [guest.name, guest]));
  const dnat = [
    ...(reach.guests ? [] : subnets.map((subnet) => returnFromGuests(subnet.bridge))),
    ...own.flatMap((forward) => buildDnatRules(forward, guests.get(forward.forward.guest))),
  ];
  const snat = subnets.flatMap((subnet) => buildSnatRules(subnet, reach));
  return {
    chains: {
      raw: new Map(),
      filter: new Map([[FWD, subnets.flatMap(buildForwardRules)]]),
      nat: new Map([[DNAT, unique(dnat)], ...(snat.length === 0 ? [] : [[SNAT, snat] as const])]),
    },
    jumps: [
      buildForwardJump(subnets),
      ...buildDnatJumps(reach, family),
      ...(snat.length === 0 ? [] : [buildNatJump("POSTROUTING", `${JUMP_MARK} -j ${SNAT}`)]),
      ...(reach.loopback ? buildGuards(subnets) : []),
    ],
    libvirt: subnets
      .filter((subnet) => nftBridges.has(subnet.bridge))
      .flatMap(({ bridge, cidr }) => buildNftForwardRules(bridge, cidr)),
  };
}

/** Each pair of bridge and subnet once: a bridge may have several addresses in one subnet. */
function listBridgeSubnets(networks: readonly Network[], family: Family): readonly BridgeSubnet[] {
  const all = networks.flatMap(({ bridge, subnets }) =>
    subnets
      .map(({ cidr }) => cidr)
      .filter((cidr) => cidr.family === family)
      .map((cidr): BridgeSubnet => ({ bridge, cidr })),
  );
  return distinctBy(all, ({ bridge, cidr }) => `${bridge} ${formatCidr(cidr)}`);
}

const JUMP_MARK = formatComment(JUMP_COMMENT);

function buildNatJump(chain: string, rule: RuleText): Jump {
  return { table: "nat", chain, rule, mustPrecedeRejectsFor: undefined, mustPrecedeAcceptsFor: undefined };
}

function buildForwardJump(subnets: readonly BridgeSubnet[]): Jump {
  return {
    table: "filter",
    chain: "FORWARD",
    rule: `${JUMP_MARK} -j ${FWD}`,
    mustPrecedeRejectsFor: unique(subnets.map((subnet) => subnet.bridge)),
    mustPrecedeAcceptsFor: undefined,
  };
}

function buildDnatJumps(reach: Reach, family: Family): readonly Jump[] {
  const toLocal = `-m addrtype --dst-type LOCAL ${JUMP_MARK} -j ${DNAT}`;
  const notLoopback = family === 4 ? "! -d 127.0.0.0/8" : "! -d ::1/128";
  return [
    buildNatJump("PREROUTING", toLocal),
    ...(reach.host ? [buildNatJump("OUTPUT", `${notLoopback} ${toLocal}`)] : []),
    ...(reach.loopback ? [buildNatJump("OUTPUT", `-d ${LOOPBACK}/32 ${JUMP_MARK} -j ${DNAT}`)] : []),
  ];
}

/** One rule per host address and source; a range is one rule. */
function buildDnatRules(resolved: ResolvedForward, guest: Guest | undefined): readonly RuleText[] {
  const { family, forward, target } = resolved;
  if (target === undefined || guest === undefined) return [];
  const hosts: readonly (Ip | undefined)[] =
    resolved.hostAddresses.length === 0 ? [undefined] : resolved.hostAddresses;
  const allowed = forward.allow.filter((cidr) => cidr.family === family);
  // iptables-save does not print a source that matches every address.
  const isOpen = forward.allow.length === 0 || allowed.some((cidr) => cidr.prefix === 0);
  const sources: readonly (Cidr | undefined)[] = isOpen ? [undefined] : allowed;
  const rule: Omit<DnatRule, "hostAddress" | "source"> = {
    family,
    protocol: forward.protocol,
    published: forward.published,
    owner: ownerOf(guest, target.mac),
    destination: target.address,
    targetPorts: forward.target,
  };
  return hosts.flatMap((hostAddress) =>
    sources.map((source) => formatDnatRule({ ...rule, hostAddress, source })),
  );
}

/** Accepts what was redirected, and the replies to it, where FORWARD's policy or libvirt would not. */
function buildForwardRules({ bridge, cidr }: BridgeSubnet): readonly RuleText[] {
  const mark = formatComment(sharedComment(bridge));
  const subnet = formatCidr(cidr);
  return [
    `-d ${subnet} -o ${bridge} -m conntrack --ctstate DNAT ${mark} -j ACCEPT`,
    `-s ${subnet} -i ${bridge} -m conntrack --ctstate DNAT --ctdir REPLY ${mark} -j ACCEPT`,
  ];
}

/** A guest would reply to another guest of its network directly, past the host, and likewise to 127.0.0.1. */
function buildSnatRules({ bridge, cidr }: BridgeSubnet, reach: Reach): readonly RuleText[] {
  const mark = formatComment(sharedComment(bridge));
  const subnet = formatCidr(cidr);
  const rule = (source: string): RuleText =>
    `-s ${source} -d ${subnet} -o ${bridge} -m conntrack --ctstate DNAT ${mark} -j MASQUERADE`;
  return [...(reach.guests ? [rule(subnet)] : []), ...(reach.loopback ? [rule("127.0.0.0/8")] : [])];
}

function returnFromGuests(bridge: string): RuleText {
  return `-i ${bridge} ${formatComment(sharedComment(bridge))} -j RETURN`;
}

/** With route_localnet, which `reach.loopback` needs, guests could reach 127.0.0.1 of the host without these rules. */
function buildGuards(subnets: readonly BridgeSubnet[]): readonly Jump[] {
  return unique(subnets.map((subnet) => subnet.bridge)).map((bridge) => ({
    table: "raw",
    chain: "PREROUTING",
    rule: `-d 127.0.0.0/8 -i ${bridge} ${formatComment(GUARD_COMMENT)} -j DROP`,
    mustPrecedeRejectsFor: undefined,
    mustPrecedeAcceptsFor: bridge,
  }));
}

function unique<T>(values: readonly T[]): readonly T[] {
  return [...new Set(values)];
}
