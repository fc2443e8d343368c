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
 * unless its chain or its text names a chain of ours or of libvirt's, or nft cannot print all of it. The removal of a
 * rule that was harmless when it was added is harmless as well. The kernel reports removals by handle alone, so the
 * handles of harmless rules are remembered. Every other event asks for a pass.
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

/** Remembers which rules of other programs are harmless. */
export interface ForeignRules {
  /** Counts an event of another program. @returns whether it asks for a pass */
  isRelevant(event: RuleEvent): boolean;
  /** Counts an event of kvmnatd's own change. */
  sawOwn(event: RuleEvent): void;
  /** Events may have been missed. */
  forget(): void;
}

/** Maximum number of remembered rules. Beyond it all are forgotten, and each removal asks for a pass. */
const MAX_REMEMBERED = 10_000;

export function createForeignRules(): ForeignRules {
  const harmless = new Set<string>();
  return {
    isRelevant(event) {
      // A handle may be reused in a table that is made again.
      const wasHarmless = harmless.delete(handleKey(event));
      if (event.verb === "delete") return !wasHarmless;
      if (!isHarmless(event)) return true;
      if (harmless.size >= MAX_REMEMBERED) harmless.clear();
      harmless.add(handleKey(event));
      return false;
    },
    sawOwn: (event) => void harmless.delete(handleKey(event)),
    forget: () => harmless.clear(),
  };
}

function handleKey({ family, table, handle }: RuleEvent): string {
  return `${family} ${table} ${handle}`;
}

const OURS_OR_LIBVIRTS = new RegExp(`\\b(?:${CHAIN_PREFIX}|LIBVIRT_|${MARK})`);

/** A verdict at the end; a chain may be called `drop`. */
const DROPS = /(?<! jump| goto) drop$/;
const ACCEPTS = /(?<! jump| goto) accept$/;

function isHarmless({ verb, table, chain, text, isComplete }: RuleEvent): boolean {
  if (verb === "replace" || !isComplete) return false;
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
