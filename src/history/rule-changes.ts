import { readClaim } from "./dnat-rule.ts";
import type { PortClaim } from "./dnat-rule.ts";
import type { JournalEntry } from "./parse-journal.ts";
import { printable } from "../sanitize.ts";

/** Why something began or ended, in the log's words. */
export interface Reason {
  readonly why: string;
  /** What made kvmnatd look; null where the log has no fields. */
  readonly trigger: string | null;
}

/** A rule of a forward that was added or removed. */
export interface RuleChange {
  readonly entry: JournalEntry;
  readonly claim: PortClaim;
  readonly action: "add" | "remove";
  readonly reason: Reason;
}

const RULE = /^([+-]) (ip6?tables) -t nat -[AID] KVMNATD-DNAT\S* (?:\d+ )?(-.*)$/;

/** Steps of one pass together. Without fields, the rules of one guest are: each has a line of its own before them. */
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
    const step = isRule ? toStep(entry, headlines) : undefined;
    if (step !== undefined) groups.at(-1)?.push(step);
    if (!isRule) headlines.push(entry);
  }
  return groups.filter((group) => group.length > 0);
}

/** Lines of one pass are written within a moment, whatever the host is busy with. */
const MOMENT_MS = 1000;

function isSamePass(before: JournalEntry, entry: JournalEntry, isRule: boolean): boolean {
  if (before.boot !== entry.boot || before.pid !== entry.pid || before.pass !== entry.pass) return false;
  return entry.pass !== undefined || (isRule && entry.atMs - before.atMs < MOMENT_MS);
}

function toStep(entry: JournalEntry, headlines: readonly JournalEntry[]): RuleChange | undefined {
  const [, sign, program, rule = ""] = RULE.exec(entry.message) ?? [];
  const claim = sign === undefined ? undefined : readClaim(rule, program === "iptables" ? 4 : 6, entry.guest);
  if (claim === undefined) return undefined;
  const headline =
    headlines.findLast(({ guest }) => guest !== undefined && guest === entry.guest) ?? headlines.at(-1);
  return {
    entry,
    claim,
    action: sign === "+" ? "add" : "remove",
    reason: toReason(headline, claim.guest),
  };
}

/** Without the guest's name before and the trigger after it: both are told beside it. */
function toReason(headline: JournalEntry | undefined, guest: string): Reason {
  if (headline === undefined) return { why: "the log does not say", trigger: null };
  const prefix = `${printable(guest)}: `;
  const text = headline.message.startsWith(prefix) ? headline.message.slice(prefix.length) : headline.message;
  const trigger = headline.reason ?? / \(([^()]*)\)$/.exec(text)?.[1] ?? null;
  const tail = ` (${trigger})`;
  return { why: text.endsWith(tail) ? text.slice(0, -tail.length) : text, trigger };
}
