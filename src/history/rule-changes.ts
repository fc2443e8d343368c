import { parseDnatRule } from "../rules/dnat-rule.ts";
import type { DnatRule } from "../rules/dnat-rule.ts";
import { decodeOwnerName } from "../rules/ownership.ts";
import { ruleKey } from "../rules/ruleset.ts";
import type { JournalEntry } from "./parse-journal.ts";
import { printable } from "../sanitize.ts";

/** Why a holding began or ended, in the log's words. */
export interface HoldingReason {
  readonly why: string;
  /** What caused the pass; null when the entry has no fields. */
  readonly trigger: string | null;
}

/** A rule of a forward that was added or removed. */
export interface RuleChange {
  readonly entry: JournalEntry;
  /** The guest's name; of a long one without fields the beginning. */
  readonly guest: string;
  readonly rule: DnatRule;
  /** Equal for all texts of the same rule. */
  readonly key: string;
  readonly action: "add" | "remove";
  readonly reason: HoldingReason;
}

const RULE = /^([+-]) (ip6?tables) -t nat -[AID] KVMNATD-DNAT\S* (?:\d+ )?(-.*)$/;

/**
 * Groups the rule changes of each pass. Without fields, it groups those of each guest: a line about the guest precedes
 * its rules.
 */
export function groupPasses(entries: readonly JournalEntry[]): readonly (readonly RuleChange[])[] {
  const groups: RuleChange[][] = [];
  let before: JournalEntry | undefined;
  let headlines: JournalEntry[] = [];
  for (const entry of entries) {
    const isRule = entry.event === undefined ? /^[+-] \S/.test(entry.message) : entry.event === "rule";
    if (before === undefined || !isSamePass(before, entry, isRule)) {
      groups.push([]);
      headlines = [];
    }
    before = entry;
    const change = isRule ? toRuleChange(entry, headlines) : undefined;
    if (change !== undefined) groups.at(-1)?.push(change);
    if (!isRule) headlines.push(entry);
  }
  return groups.filter((group) => group.length > 0);
}

/** Maximum time between two lines of one pass, also on a busy host. */
const MOMENT_MS = 1000;

function isSamePass(before: JournalEntry, entry: JournalEntry, isRule: boolean): boolean {
  if (before.boot !== entry.boot || before.pid !== entry.pid || before.pass !== entry.pass) return false;
  return entry.pass !== undefined || (isRule && entry.atMs - before.atMs < MOMENT_MS);
}

function toRuleChange(entry: JournalEntry, headlines: readonly JournalEntry[]): RuleChange | undefined {
  const [, sign, program, text = ""] = RULE.exec(entry.message) ?? [];
  const rule = sign === undefined ? undefined : parseDnatRule(text);
  if (rule === undefined) return undefined;
  const guest = entry.guest ?? decodeOwnerName(rule.owner.name);
  const headline =
    headlines.findLast((each) => each.guest !== undefined && each.guest === entry.guest) ?? headlines.at(-1);
  return {
    entry,
    guest,
    rule,
    key: `${program} ${ruleKey(text)}`,
    action: sign === "+" ? "add" : "remove",
    reason: toReason(headline, guest),
  };
}

/** Removes the guest's name and the trigger from the message, because both are printed beside it. */
function toReason(headline: JournalEntry | undefined, guest: string): HoldingReason {
  if (headline === undefined) return { why: "the log does not say", trigger: null };
  const prefix = `${printable(guest)}: `;
  const text = headline.message.startsWith(prefix) ? headline.message.slice(prefix.length) : headline.message;
  const trigger = headline.reason ?? / \(([^()]*)\)$/.exec(text)?.[1] ?? null;
  const tail = ` (${trigger})`;
  return { why: text.endsWith(tail) ? text.slice(0, -tail.length) : text, trigger };
}
