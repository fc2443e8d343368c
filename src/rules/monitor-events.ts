import type { Family } from "../net/address.ts";
import { CHAIN_PREFIX, MARK } from "./ownership.ts";

/*
 * Docker changes a handful of rules with each container; a pass each time would take 11 % of a core with 5,000
 * forwards. A rule of another program is harmless where it can neither be one of ours nor keep packets from the forwards:
 *
 *   table  | harmless when added
 *   -------+------------------------------------------------------------------
 *   raw    | it only drops
 *   filter | it only accepts, or it is in INPUT or OUTPUT
 *   nat    | it is appended: ours come first; or it is not in PREROUTING
 *
 * unless its chain or its text names a chain of ours or of libvirt's, or nft cannot print all of it. Its removal is
 * harmless as well; the kernel reports a removal by handle alone. Every other event asks for a pass.
 */

/** A rule that was added or removed, as `nft -a monitor rules` prints it. */
export interface RuleEvent {
  readonly verb: "add" | "insert" | "delete" | "replace";
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  /** The rule; empty when it was removed. */
  readonly text: string;
  /** Its number in its table; undefined where a comment breaks the line. */
  readonly handle: string | undefined;
  /** Whether nft printed all of it: nft 1.0.6 and 1.1.3 leave two blanks for what they cannot print, such as iptables' comments. */
  readonly isComplete: boolean;
}

const EVENT = /^(add|insert|delete|replace) rule (ip6?) (raw|filter|nat|libvirt_network) (\S+)(.*)$/;
const HANDLE = /(?: #)? handle (\d+)$/;

/** @returns undefined for an event in a table that kvmnatd does not read */
export function parseRuleEvent(line: string): RuleEvent | undefined {
  const [, verb, ip, table = "", chain = "", rest = ""] = EVENT.exec(line) ?? [];
  if (verb === undefined) return undefined;
  return {
    verb: verb as RuleEvent["verb"],
    family: ip === "ip6" ? 6 : 4,
    table,
    chain,
    text: rest.replace(HANDLE, "").trim(),
    handle: HANDLE.exec(rest)?.[1],
    isComplete: HANDLE.test(rest) && !/ {2}|\bxt (?:match|target)\b/.test(rest),
  };
}

const OURS_OR_LIBVIRTS = new RegExp(`\\b(?:${CHAIN_PREFIX}|LIBVIRT_|${MARK})`);

/** A verdict at the end; a chain may be called `drop`. */
const DROPS = /(?<! jump| goto) drop$/;
const ACCEPTS = /(?<! jump| goto) accept$/;

/** Whether the rule that was added is harmless. */
export function isHarmless({ verb, table, chain, text, isComplete }: RuleEvent): boolean {
  if (verb === "replace" || verb === "delete" || !isComplete) return false;
  if (OURS_OR_LIBVIRTS.test(chain) || OURS_OR_LIBVIRTS.test(text)) return false;
  switch (table) {
    case "raw":
      return DROPS.test(text);
    case "filter":
      return ACCEPTS.test(text) || chain === "INPUT" || chain === "OUTPUT";
    case "nat":
      return verb === "add" || chain !== "PREROUTING";
    default:
      return false;
  }
}
