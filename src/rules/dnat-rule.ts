import {
  familyOf,
  formatCidr,
  formatHostPort,
  formatPorts,
  parseCidr,
  parseIp,
  parsePorts,
} from "../net/address.ts";
import type { Cidr, Family, Ip, PortRange, Protocol } from "../net/address.ts";
import { formatComment, formatOwner, MARK, parseOwner } from "./ownership.ts";
import type { Owner } from "./ownership.ts";
import { splitOptions, stripHostPrefix } from "./ruleset.ts";
import type { RuleOption, RuleText } from "./ruleset.ts";

/** The rule that redirects one published port or range, at one address of the host and for one source. */
export interface DnatRule {
  readonly family: Family;
  readonly protocol: Protocol;
  readonly published: PortRange;
  /** Undefined: any local address. */
  readonly hostAddress: Ip | undefined;
  /** Clients that may connect; undefined: all. */
  readonly source: Cidr | undefined;
  readonly owner: Owner;
  readonly destination: Ip;
  /** As long as `published`. */
  readonly targetPorts: PortRange;
}

/** @returns the rule in the words of iptables-save, without `-A CHAIN`; {@link parseDnatRule} is its inverse */
export function formatDnatRule(rule: DnatRule): RuleText {
  const { family, protocol, published, hostAddress, source, owner } = rule;
  return [
    ...(source === undefined ? [] : [`-s ${formatCidr(source)}`]),
    ...(hostAddress === undefined ? [] : [`-d ${hostAddress}/${family === 4 ? 32 : 128}`]),
    `-p ${protocol} -m ${protocol} --dport ${formatPorts(published, ":")}`,
    formatComment(formatOwner(owner)),
    `-j DNAT --to-destination ${formatDestination(rule)}`,
  ].join(" ");
}

/**
 * Reads a rule that {@link formatDnatRule} wrote, in the words of any version or variant of iptables. Conditions that
 * kvmnatd never writes are ignored.
 * @returns undefined for every other rule, also for one of ours that was edited so that it makes no sense
 */
export function parseDnatRule(text: RuleText): DnatRule | undefined {
  // Cheap test first: a host may have a hundred thousand rules of other programs.
  if (!text.includes(MARK)) return undefined;
  const options = splitOptions(text);
  const valueOf = (flag: string): string | undefined => optionValue(options, flag);
  const owner = parseOwner(valueOf("--comment") ?? "");
  const protocol = PROTOCOLS.find((each) => each === valueOf("-p"));
  const [ports, listen, sources] = [valueOf("--dport"), valueOf("-d"), valueOf("-s")];
  if (owner === undefined || protocol === undefined || ports === undefined || valueOf("-j") !== "DNAT")
    return undefined;
  const published = parsePorts(ports, ":");
  const target = parseDestination(valueOf("--to-destination") ?? "", published);
  const hostAddress = listen === undefined ? undefined : parseIp(stripHostPrefix(listen));
  const source = sources === undefined ? undefined : parseCidr(sources);
  if (target === undefined || (listen !== undefined && hostAddress === undefined)) return undefined;
  return { family: familyOf(target.destination), protocol, published, hostAddress, source, owner, ...target };
}

const PROTOCOLS: readonly Protocol[] = ["tcp", "udp", "sctp"];

function optionValue(options: readonly RuleOption[], flag: string): string | undefined {
  return options.find((option) => option.flag === flag)?.values[0];
}

/** `ADDRESS:PORT`; a shifted range is `ADDRESS:FIRST-LAST/BASE`, an unshifted one is the address alone. */
function formatDestination({ destination, published, targetPorts }: DnatRule): string {
  const single = targetPorts.first === targetPorts.last;
  if (!single && targetPorts.first === published.first) return destination;
  const base = single ? "" : `/${published.first}`;
  return formatHostPort(destination, `${formatPorts(targetPorts)}${base}`);
}

const DESTINATION = /^(?:\[([^\]]+)\]|([^:]+)):(\d+(?:-\d+)?)(?:\/\d+)?$/;

function parseDestination(
  text: string,
  published: PortRange,
): Pick<DnatRule, "destination" | "targetPorts"> | undefined {
  const [, ipv6, ipv4, ports] = DESTINATION.exec(text) ?? [];
  const destination = parseIp(ipv6 ?? ipv4 ?? text);
  if (destination === undefined) return undefined;
  return { destination, targetPorts: ports === undefined ? published : parsePorts(ports) };
}
