import { formatPorts, parseIp, parsePorts, formatHostPort } from "../net/address.ts";
import type { Family, PortRange } from "../net/address.ts";
import { ownerName, parseOwner } from "../rules/ownership.ts";
import { commentOf, optionOf, ruleKey, targetOf, stripHostPrefix } from "../rules/ruleset.ts";

/** What one rule of a forward says: who is to have which port. */
export interface PortClaim {
  readonly guest: string;
  readonly family: Family;
  readonly protocol: string;
  readonly published: PortRange;
  /** The host's address; null: any. */
  readonly listen: string | null;
  /** `192.168.122.11:22`, `[fd00::1]:22`, a range `192.168.122.11:8000-8010`. */
  readonly target: string;
  /** Who is let in; undefined: everyone. */
  readonly source: string | undefined;
  /** The same for all texts of the same rule. */
  readonly rule: string;
}

/**
 * Reads a DNAT rule of ours.
 * @param guest its name as the entry has it; else the rule's comment has it, or, of a long one, the beginning
 * @returns undefined for any other rule
 */
export function readClaim(rule: string, family: Family, guest: string | undefined): PortClaim | undefined {
  const owner = parseOwner(commentOf(rule) ?? "");
  const ports = optionOf(rule, "--dport");
  if (owner === undefined || ports === undefined || targetOf(rule) !== "DNAT") return undefined;
  const published = parsePorts(ports, ":");
  const listen = optionOf(rule, "-d");
  return {
    guest: guest ?? decodeName(owner.name),
    family,
    protocol: optionOf(rule, "-p") ?? "",
    published,
    listen: listen === undefined ? null : stripHostPrefix(listen),
    target: formatTarget(optionOf(rule, "--to-destination") ?? "", published),
    source: optionOf(rule, "-s"),
    rule: ruleKey(rule),
  };
}

function decodeName(name: string): string {
  const bytes = name.match(/%[0-9a-f]{2}|[^%]/g) ?? [];
  return new TextDecoder().decode(
    Uint8Array.from(bytes, (each) =>
      each.length === 3 ? Number.parseInt(each.slice(1), 16) : each.charCodeAt(0),
    ),
  );
}

/** `ADDRESS` alone keeps the port; `/BASE` of a shifted range says again what is published. */
function formatTarget(destination: string, published: PortRange): string {
  const ip = parseIp(destination);
  if (ip === undefined) return destination.replace(/\/\d+$/, "");
  return formatHostPort(ip, formatPorts(published));
}

/** The same for all claims to one port. */
export function portKey({ family, protocol, published, listen }: PortClaim): string {
  return [family, protocol, formatPorts(published), listen ?? "*"].join(" ");
}

/** The same for all claims of one guest to one port, from one address. */
export function claimKey(claim: PortClaim): string {
  return [portKey(claim), claim.target, ownerName(claim.guest)].join(" ");
}
