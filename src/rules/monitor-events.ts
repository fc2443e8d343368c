import type { Family } from "../net/address.ts";
import { CHAIN_PREFIX, MARK } from "./ownership.ts";

/*
 * Docker changes a handful of rules with each container, and a look at ours each time would cost more than all else that
 * kvmnatd does. What another program adds or removes concerns us where it may be one of ours, or stand in the way of one:
 *
 *   table, chain                      | added                          | removed
 *   ----------------------------------+--------------------------------+------------------------------
 *   of libvirt's or of ours, anywhere | yes                            | yes
 *   raw PREROUTING                    | unless it drops and no more    | unless it was seen to be added
 *   other chains of raw               | unless it drops and no more    | no
 *   filter FORWARD                    | unless it accepts and no more  | unless it was seen to be added
 *   filter INPUT, OUTPUT              | no                             | no
 *   other chains of filter            | unless it accepts and no more  | unless it was seen to be added
 *   nat PREROUTING                    | if inserted: it may have ports | unless it was seen to be appended
 *   nat OUTPUT, POSTROUTING           | no: order does not matter      | unless it was seen to be added
 *   other chains of nat               | no                             | no
 *
 * Of what goes the kernel tells the number alone, so those of others' rules are remembered. What is in the way of which
 * of ours, obstacles.ts says. All of this holds where the rules are as they should be; while somebody's are in the way,
 * it may be these that go.
 */

/** A rule that came or went, as `nft -a monitor rules` prints it. */
export interface RuleEvent {
  readonly verb: "add" | "insert" | "delete" | "replace";
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
  /** The rule; empty when it went. */
  readonly text: string;
  /** Its number in its table; a rule that takes another's place may keep it. Absent where a comment breaks the line. */
  readonly handle: string | undefined;
  /** Whether that is all of it: nft 1.0.6 and 1.1.3 leave two blanks for what they cannot print, as iptables' comments. */
  readonly isWhole: boolean;
}

const EVENT = /^(add|insert|delete|replace) rule (ip6?) (raw|filter|nat|libvirt_network) (\S+)(.*)$/;
const HANDLE = /(?: #)? handle (\d+)$/;

/** @returns undefined for what is in no table that kvmnatd looks at */
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
  /** What others did: whether it may concern us. */
  concerns(event: RuleEvent): boolean;
  /** What we may have done ourselves. */
  sawOwn(event: RuleEvent): void;
  /** Events may have been missed. */
  forget(): void;
}

/** A host may have more rules of others where ours are: then those that go are looked for. */
const REMEMBERED_MAX = 10_000;

/** Remembers which rules are others' where ours are as well. */
export function createForeignRules(): ForeignRules {
  const others = new Set<string>();

  /** Whether it was others'. A new table's numbers begin anew: none may stay behind. */
  function remove({ family, table, handle }: RuleEvent): boolean {
    return others.delete(`${family} ${table} ${handle}`);
  }

  function remember({ family, table, handle }: RuleEvent): void {
    if (others.size >= REMEMBERED_MAX) others.clear();
    others.add(`${family} ${table} ${handle}`);
  }

  return {
    concerns(event) {
      if (event.verb === "delete") return !remove(event) && mayConcernWhenGone(event);
      if (event.handle === undefined || isLibvirtsOrOurs(event)) return true;
      // By its comment, which is not told, it may be one of ours.
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

/** Unless it is known to have been others', and to have come when all was well without it. */
function mayConcernWhenGone(event: RuleEvent): boolean {
  return mayHaveBeenOurs(event) || isForwarding(event);
}

/** Where rules of ours stand, and libvirt's. */
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

/** See rules-before.ts. What is appended stands behind ours. */
function mayHavePorts({ verb, table, chain }: RuleEvent): boolean {
  return verb === "insert" && table === "nat" && chain === "PREROUTING";
}

function mayBeInTheWay({ table, chain, text }: RuleEvent): boolean {
  if (table === "raw") return !DROPS.test(text);
  return isForwarding({ table, chain }) && !ACCEPTS.test(text);
}

/** FORWARD, and what it may lead to. What accepts or returns there may keep a packet from what rejects behind it. */
function isForwarding({ table, chain }: Pick<RuleEvent, "table" | "chain">): boolean {
  return table === "filter" && chain !== "INPUT" && chain !== "OUTPUT";
}

/** A chain may be called so. */
const DROPS = /(?<! jump| goto) drop$/;
const ACCEPTS = /(?<! jump| goto) accept$/;
