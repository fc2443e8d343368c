import { familyOf } from "../net/address.ts";
import type { Family, Ip } from "../net/address.ts";
import type { Change, FamilyChange } from "../rules/diff.ts";
import type { EventCode } from "../event-codes.ts";
import { parseDnatRule } from "../rules/dnat-rule.ts";
import { ownerName } from "../rules/ownership.ts";
import type { Owner } from "../rules/ownership.ts";
import { commandOf } from "../rules/restore.ts";
import type { LogLevel } from "../config/port-map.ts";
import { printable } from "../sanitize.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";

/** One line of the audit trail. */
export interface LogEntry {
  readonly level: LogLevel;
  readonly message: string;
  readonly event: EventCode;
  readonly guest?: string;
  readonly rule?: string;
  readonly action?: "add" | "remove";
  readonly pass?: number;
  readonly reason?: string;
  /** Of its kind guests can make as many as they like: so many are told a minute, see tell-problems.ts. */
  readonly quota?: string;
}

/** What was told of a guest in one family, so that only news is told. */
interface LoggedGuest {
  readonly guest: string;
  readonly address?: Ip;
  readonly why?: string;
}

export type LoggedGuests = ReadonlyMap<string, LoggedGuest>;

/** What each guest's forwards are now, as {@link buildAuditEntries} will remember it. */
export function describeGuests(forwards: readonly ResolvedForward[]): LoggedGuests {
  const told = new Map<string, LoggedGuest>();
  for (const { forward, family, target, why } of forwards) {
    const key = keyOf(forward.guest, family);
    // One of several forwards may have no place on the host, or something to say: the guest has its address all the same.
    const address = target === undefined ? {} : { address: target.address };
    const own = { ...address, ...(why === undefined ? {} : { why }) };
    told.set(key, { guest: forward.guest, ...own, ...told.get(key) });
  }
  return told;
}

/**
 * What is told where the kernel did not take the rules: that it is as before, not that it is as it should be.
 * @param failing by family and guest, with the reason
 */
export function describeFailures(
  now: LoggedGuests,
  before: LoggedGuests,
  failing: ReadonlyMap<string, string>,
): LoggedGuests {
  return new Map(
    [...now].map(([key, told]) => {
      const failure = failing.get(key);
      if (failure === undefined || told.address === undefined) return [key, told];
      const address = before.get(key)?.address;
      const still = address === undefined ? {} : { address };
      return [key, { guest: told.guest, ...still, why: `degraded: ${failure}` }];
    }),
  );
}

/**
 * The audit trail of one pass: per guest one line that says why, then one line a rule.
 * @param changes those that the kernel has taken
 * @param trigger what made the pass run
 */
export function buildAuditEntries(
  before: LoggedGuests,
  now: LoggedGuests,
  changes: readonly FamilyChange[],
  trigger: string,
  pass: number,
): readonly LogEntry[] {
  const groups = Map.groupBy(changes, ({ family, change }) => ownerKey(family, change));
  const owners = new Map([...before, ...now].map(([key, { guest }]) => [key, guest]));
  const entries: LogEntry[] = [];
  const common = { pass, reason: trigger };
  for (const [key, guest] of owners) {
    const group = groups.get(ownerKeyOfGuest(key)) ?? [];
    groups.delete(ownerKeyOfGuest(key));
    const headline = describeGuest(before.get(key), now.get(key), group.length, trigger);
    if (headline !== undefined) entries.push({ ...headline, guest, ...common });
    entries.push(...group.map((each) => ({ ...ruleLine(each), guest, ...common })));
  }
  for (const [key, group] of groups) {
    entries.push({ ...tellShared(key, group.length, trigger), ...common });
    entries.push(...group.map((each) => ({ ...ruleLine(each), ...common })));
  }
  return entries;
}

function describeGuest(
  before: LoggedGuest | undefined,
  now: LoggedGuest | undefined,
  changes: number,
  trigger: string,
): Pick<LogEntry, "level" | "message" | "event" | "quota"> | undefined {
  const name = printable(now?.guest ?? before?.guest ?? "");
  const because = `(${trigger})`;
  if (now === undefined)
    return before?.address === undefined && changes === 0
      ? undefined
      : { level: "info", event: "guest-removed", message: `${name}: no longer published ${because}` };
  const note = now.why === undefined ? "" : `; ${now.why}`;
  if (before?.address !== now.address) {
    if (now.address === undefined)
      return {
        level: "info",
        event: "forward-pending",
        message: `${name}: ${before?.address} -> none${note} ${because}`,
      };
    const moved = before?.address !== undefined;
    const message = moved
      ? `${name}: ${before.address} -> ${now.address}${note} ${because}`
      : `${name}: forwarded to ${now.address}${note} ${because}`;
    return { level: "info", event: moved ? "forward-moved" : "forward-active", message };
  }
  if (changes > 0)
    return {
      level: "info",
      event: "rules-changed",
      message: `${name}: rules brought up to date${note} ${because}`,
    };
  if (before?.why === now.why) return undefined;
  const state = now.address === undefined ? "pending" : `forwarded to ${now.address}`;
  const message = `${name}: ${state}${note} ${because}`;
  if (now.why?.startsWith("conflict") === true)
    return { level: "warn", event: "forward-conflict", message, quota: `forward-conflict ${name}` };
  // That a network is down, or the kernel takes no rules, is told once, not for each of the guests.
  const level = /^(network |no network |degraded: )/.test(now.why ?? "") ? "debug" : "info";
  return { level, event: "guest-status-changed", message, quota: `forward-state ${name}` };
}

function tellShared(
  key: string,
  count: number,
  trigger: string,
): Pick<LogEntry, "level" | "message" | "event"> {
  const rules = count === 1 ? "1 change" : `${count} changes`;
  const whose =
    key === SHARED ? "chains and rules of the networks" : "rules of a guest that is not in the config";
  return { level: "info", event: "rules-changed", message: `${whose}: ${rules} (${trigger})` };
}

function ruleLine({
  family,
  change,
}: FamilyChange): Pick<LogEntry, "level" | "message" | "event" | "rule" | "action"> {
  const action = change.kind === "add" || change.kind === "create-chain" ? "add" : "remove";
  const rule = commandOf(family, change);
  return { level: "info", event: "rule", message: `${action === "add" ? "+" : "-"} ${rule}`, rule, action };
}

const SHARED = "";

function ownerKey(family: Family, change: Change): string {
  const owner = ownerOfChange(change);
  return owner === undefined ? SHARED : `${family} ${owner.name}`;
}

/** The guest that a change is made for; undefined for what serves several. */
export function ownerOfChange(change: Change): Owner | undefined {
  return "rule" in change ? parseDnatRule(change.rule)?.owner : undefined;
}

function keyOf(guest: string, family: Family): string {
  return `${family} ${guest}`;
}

function ownerKeyOfGuest(key: string): string {
  return `${key.slice(0, 2)}${ownerName(key.slice(2))}`;
}

/** What the kernel's own rules tell at start: so that a restart tells nothing that did not change. */
export function describeIncumbents(
  incumbents: readonly { readonly guest: string; readonly address: Ip }[],
): LoggedGuests {
  return new Map(
    incumbents.map(({ guest, address }) => [keyOf(guest, familyOf(address)), { guest, address }]),
  );
}
