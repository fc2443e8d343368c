import type { Family } from "../net/address.ts";
import { CHAIN_PREFIX, MARK } from "./ownership.ts";

/*
 * Docker changes several rules with each container. Reading all rules each time would cost more than everything else that
 * kvmnatd does. A rule that another program adds or removes matters only if it may be one of ours or precede one of ours:
 *
 *   table, chain                      | added                          | removed
 *   ----------------------------------+--------------------------------+------------------------------
 *   libvirt's or ours, anywhere       | yes                            | yes
 *   raw PREROUTING                    | unless it only drops           | unless kvmnatd saw it added
 *   other chains of raw               | unless it only drops           | no
 *   filter FORWARD                    | unless it only accepts         | unless kvmnatd saw it added
 *   filter INPUT, OUTPUT              | no                             | no
 *   other chains of filter            | unless it only accepts         | unless kvmnatd saw it added
 *   nat PREROUTING                    | if inserted: it may have ports | unless kvmnatd saw it appended
 *   nat OUTPUT, POSTROUTING           | no: order does not matter      | unless kvmnatd saw it added
 *   other chains of nat               | no                             | no
 *
 * The kernel reports a removed rule only by its handle, so the handles of foreign rules are remembered. jump-position.ts
 * decides which rule is in the way of which of ours. The table holds while the rules are as desired; while a foreign rule
 * is in the way, its removal matters too.
 */

/** A rule that was added or removed, as `nft -a monitor rules` prints it. */
export interface RuleEvent {
  readonly verb: "add" | "insert" | "delete" | "replace";
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  /** The rule; empty when it was removed. */
  readonly text: string;
  /** Its handle in its table; a replacing rule may keep it. Undefined when a comment breaks the line. */
  readonly handle: string | undefined;
  /** Whether the text is complete: nft 1.0.6 and 1.1.3 print two blanks for what they cannot print, such as iptables' comments. */
  readonly isWhole: boolean;
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
    isWhole: HANDLE.test(rest) && !/ {2}|\bxt (?:match|target)\b/.test(rest),
  };
}

export interface ForeignRules {
  /** Whether an event of another program may concern our rules. */
  concerns(event: RuleEvent): boolean;
  /** Records an event that kvmnatd may have caused itself. */
  sawOwn(event: RuleEvent): void;
  /** Forgets all handles, because events may have been missed. */
  forget(): void;
}

/** Maximum number of remembered handles. Beyond it, removals of foreign rules cause a pass. */
const MAX_REMEMBERED = 10_000;

/** Remembers the handles of foreign rules in the chains that have rules of ours too. */
export function createForeignRules(): ForeignRules {
  const others = new Set<string>();

  /** Whether the rule was foreign. Handles begin again in a new table, so none may stay. */
  function remove({ family, table, handle }: RuleEvent): boolean {
    return others.delete(`${family} ${table} ${handle}`);
  }

  function remember({ family, table, handle }: RuleEvent): void {
    if (others.size >= MAX_REMEMBERED) others.clear();
    others.add(`${family} ${table} ${handle}`);
  }

  return {
    concerns(event) {
      if (event.verb === "delete") return !remove(event) && mayConcernWhenGone(event);
      if (event.handle === undefined || isLibvirtsOrOurs(event)) return true;
      // Its comment, which nft does not print, may mark it as ours.
      if (mayHaveBeenOurs(event) && !event.isWhole) return true;
      if (mayHavePorts(event)) return true;
      if (mayConcernWhenGone(event)) remember(event);
      return mayBeInTheWay(event);
    },
    sawOwn: (event) => void remove(event),
    forget: () => others.clear(),
  };
}

function isLibvirtsOrOurs({ verb, table, chain, text }: RuleEvent): boolean {
  return verb === "replace" || table === "libvirt_network" || SPECIAL.test(chain) || SPECIAL.test(text);
}

const SPECIAL = new RegExp(`\\b(?:${CHAIN_PREFIX}|LIBVIRT_|${MARK})`);

/** Whether a removed rule may have been ours, or in the way, if its handle is not remembered. */
function mayConcernWhenGone(event: RuleEvent): boolean {
  return mayHaveBeenOurs(event) || isForwarding(event);
}

/** Whether the chain has rules of ours or of libvirt. */
function mayHaveBeenOurs({ table, chain }: RuleEvent): boolean {
  return table === "libvirt_network" || SPECIAL.test(chain) || SHARED.has(`${table} ${chain}`);
}

const SHARED: ReadonlySet<string> = new Set([
  "raw PREROUTING",
  "filter FORWARD",
  "nat PREROUTING",
  "nat OUTPUT",
  "nat POSTROUTING",
]);

/** Whether the rule may shadow ours, see shadowing-rules.ts. An appended rule stands behind ours. */
function mayHavePorts({ verb, table, chain }: RuleEvent): boolean {
  return verb === "insert" && table === "nat" && chain === "PREROUTING";
}

function mayBeInTheWay({ table, chain, text }: RuleEvent): boolean {
  if (table === "raw") return !DROPS.test(text);
  return isForwarding({ table, chain }) && !ACCEPTS.test(text);
}

/** FORWARD and the chains that it may jump to: an accept or return there may keep a packet from a later reject. */
function isForwarding({ table, chain }: Pick<RuleEvent, "table" | "chain">): boolean {
  return table === "filter" && chain !== "INPUT" && chain !== "OUTPUT";
}

/** Not preceded by a jump, because a chain may have this name. */
const DROPS = /(?<! jump| goto) drop$/;
const ACCEPTS = /(?<! jump| goto) accept$/;
