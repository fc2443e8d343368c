import { formatPorts, parseIp, withPorts } from "./address.ts";
import type { Family, PortRange } from "./address.ts";
import { ownerName, parseOwner } from "./owner.ts";
import { commentOf, optionOf, ruleKey, targetOf } from "./ruleset.ts";

/** What one rule of a forward says: who is to have which port. */
export interface Claim {
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
export function readClaim(rule: string, family: Family, guest: string | undefined): Claim | undefined {
  const owner = parseOwner(commentOf(rule) ?? "");
  const published = readRange(optionOf(rule, "--dport") ?? "");
  if (owner === undefined || published === undefined || targetOf(rule) !== "DNAT") return undefined;
  return {
    guest: guest ?? decodeName(owner.name),
    family,
    protocol: optionOf(rule, "-p") ?? "",
    published,
    listen: withoutMask(optionOf(rule, "-d")) ?? null,
    target: formatTarget(optionOf(rule, "--to-destination") ?? "", published),
    source: optionOf(rule, "-s"),
    rule: ruleKey(rule),
  };
}

function readRange(text: string): PortRange | undefined {
  const [, first, last = first] = /^(\d+)(?::(\d+))?$/.exec(text) ?? [];
  return first === undefined ? undefined : { first: Number(first), last: Number(last) };
}

function decodeName(name: string): string {
  const bytes = name.match(/%[0-9a-f]{2}|[^%]/g) ?? [];
  return new TextDecoder().decode(
    Uint8Array.from(bytes, (each) =>
      each.length === 3 ? Number.parseInt(each.slice(1), 16) : each.charCodeAt(0),
    ),
  );
}

function withoutMask(address: string | undefined): string | undefined {
  return address?.replace(/\/(?:32|128)$/, "");
}

/** `ADDRESS` alone keeps the port; `/BASE` of a shifted range says again what is published. */
function formatTarget(destination: string, published: PortRange): string {
  const ip = parseIp(destination);
  if (ip === undefined) return destination.replace(/\/\d+$/, "");
  return withPorts(ip, formatPorts(published));
}

/** The same for all claims to one port. */
export function portOf({ family, protocol, published, listen }: Claim): string {
  return [family, protocol, formatPorts(published), listen ?? "*"].join(" ");
}

/** The same for all claims of one guest to one port, from one address. */
export function keyOf(claim: Claim): string {
  return [portOf(claim), claim.target, ownerName(claim.guest)].join(" ");
}
