import { familyOf } from "../net/address.ts";
import type { Family, Ip } from "../net/address.ts";
import type { Change, FamilyChange } from "../rules/diff.ts";
import type { EventCode } from "../event-codes.ts";
import { parseDnatRule } from "../rules/dnat-rule.ts";
import { guestKey, encodeOwnerName } from "../rules/ownership.ts";
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
  /** Key of its rate limit, for lines that a guest can cause without end, see problem-log.ts. */
  readonly limitKey?: string;
}

/** What was logged of a guest in one family, so that only news is logged. */
interface LoggedGuest {
  readonly family: Family;
  readonly guest: string;
  readonly address: Ip | undefined;
  readonly why: LoggedReason | undefined;
}

interface LoggedReason {
  readonly kind: NonNullable<ResolvedForward["why"]>["kind"] | "degraded";
  readonly text: string;
}

/** By {@link guestKey}. */
export type LoggedGuests = ReadonlyMap<string, LoggedGuest>;

/** @returns what the forwards of each guest are now, as {@link buildAuditEntries} will remember it */
export function describeGuests(forwards: readonly ResolvedForward[]): LoggedGuests {
  const logged = new Map<string, LoggedGuest>();
  for (const { forward, family, target, why } of forwards) {
    const key = guestKey(family, forward.guest);
    const known = logged.get(key);
    // One of several forwards may have no host address, or a note: the guest has its address all the same.
    const address = known?.address ?? target?.address;
    logged.set(key, { family, guest: forward.guest, address, why: known?.why ?? why });
  }
  return logged;
}

/**
 * Replaces the state of each guest whose rules the kernel did not take by the state before.
 * @param failing the reasons, by {@link guestKey}
 */
export function describeFailures(
  now: LoggedGuests,
  before: LoggedGuests,
  failing: ReadonlyMap<string, string>,
): LoggedGuests {
  return new Map(
    [...now].map(([key, logged]) => {
      const failure = failing.get(key);
      if (failure === undefined || logged.address === undefined) return [key, logged];
      const why: LoggedReason = { kind: "degraded", text: `degraded: ${failure}` };
      return [key, { ...logged, address: before.get(key)?.address, why }];
    }),
  );
}

/** What a pass changed. */
interface GuestChanges {
  readonly before: LoggedGuests;
  readonly now: LoggedGuests;
  /** Changes that the kernel has taken. */
  readonly changes: readonly FamilyChange[];
}

/** Builds the audit trail of one pass: per guest one line with the reason, then one line per rule. */
export function buildAuditEntries(
  { before, now, changes }: GuestChanges,
  { number, trigger }: { readonly number: number; readonly trigger: string },
): readonly LogEntry[] {
  const groups = Map.groupBy(changes, ({ family, change }) => ownerKey(family, change));
  const entries: LogEntry[] = [];
  const common = { pass: number, reason: trigger };
  for (const [key, { family, guest }] of new Map([...before, ...now])) {
    const owner = guestKey(family, encodeOwnerName(guest));
    const group = groups.get(owner) ?? [];
    groups.delete(owner);
    const headline = describeGuest(before.get(key), now.get(key), group.length, trigger);
    if (headline !== undefined) entries.push({ ...headline, guest, ...common });
    entries.push(...group.map((each) => ({ ...describeChange(each), guest, ...common })));
  }
  for (const [key, group] of groups) {
    entries.push({ ...describeShared(key, group.length, trigger), ...common });
    entries.push(...group.map((each) => ({ ...describeChange(each), ...common })));
  }
  return entries;
}

type Headline = Pick<LogEntry, "level" | "message" | "event" | "limitKey">;

/** @returns undefined when there is nothing new */
function describeGuest(
  before: LoggedGuest | undefined,
  now: LoggedGuest | undefined,
  changes: number,
  trigger: string,
): Headline | undefined {
  const name = printable(now?.guest ?? before?.guest ?? "");
  const note = now?.why === undefined ? "" : `; ${now.why.text}`;
  const report = (event: EventCode, text: string): Headline => ({
    level: "info",
    event,
    message: `${name}: ${text}${note} (${trigger})`,
  });
  const [from, to] = [before?.address, now?.address];
  if (now === undefined)
    return from === undefined && changes === 0 ? undefined : report("guest-removed", "no longer published");
  if (from !== to) {
    if (to === undefined) return report("forward-pending", `${from} -> none`);
    if (from === undefined) return report("forward-active", `forwarded to ${to}`);
    return report("forward-moved", `${from} -> ${to}`);
  }
  if (changes > 0) return report("rules-changed", "rules brought up to date");
  if (before?.why?.text === now.why?.text) return undefined;
  const state = to === undefined ? "pending" : `forwarded to ${to}`;
  if (now.why?.kind === "conflict")
    return { ...report("forward-conflict", state), level: "warn", limitKey: `forward-conflict ${name}` };
  // A network that is down, or a kernel that takes no rules, has one line of its own, not one for each guest.
  const level = now.why?.kind === "network-down" || now.why?.kind === "degraded" ? "debug" : "info";
  return { ...report("guest-status-changed", state), level, limitKey: `forward-state ${name}` };
}

function describeShared(
  key: string,
  count: number,
  trigger: string,
): Pick<LogEntry, "level" | "message" | "event"> {
  const rules = count === 1 ? "1 change" : `${count} changes`;
  const whose =
    key === SHARED ? "chains and rules of the networks" : "rules of a guest that is not in the config";
  return { level: "info", event: "rules-changed", message: `${whose}: ${rules} (${trigger})` };
}

function describeChange({
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
  return owner === undefined ? SHARED : guestKey(family, owner.name);
}

/** @returns the guest of a changed rule; undefined for a rule that serves several */
export function ownerOfChange(change: Change): Owner | undefined {
  return "rule" in change ? parseDnatRule(change.rule)?.owner : undefined;
}

/** @returns what the kernel's own rules say, so that the first pass of a daemon logs only what changed */
export function describeIncumbents(
  incumbents: readonly { readonly guest: string; readonly address: Ip }[],
): LoggedGuests {
  return new Map(
    incumbents.map(({ guest, address }) => {
      const family = familyOf(address);
      return [guestKey(family, guest), { family, guest, address, why: undefined }];
    }),
  );
}
