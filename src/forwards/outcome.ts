import { findEarliest } from "../earliest.ts";
import { isTaken } from "../identity/candidates.ts";
import { recordMove } from "../identity/flapping.ts";
import type { Found, Incumbent, LookupContext, LookupResult, Target } from "../identity/lookup.ts";
import { createReason } from "../identity/reason.ts";
import type { Reason } from "../identity/reason.ts";
import { nextProbeMs, scheduleRecheck, recheckWakeMs } from "../identity/recheck.ts";
import { checkNotOwn } from "../leases/network.ts";
import type { Guest } from "../config/port-map.ts";
import { identityText } from "../config/port-map.ts";

/*
 *   lookup result   | forward                                  | incumbent
 *   found           | to the address                           | the address
 *   mac-mismatch    | pending; probed again                    | stays
 *   network-down    | pending                                  | stays: its name must not become free
 *   address-refused | the same                                 | the same
 *   name-conflict   | the same                                 | the same
 *   unreadable      | as before                                | stays
 *   lease-missing   | as before for linger                     | stays for linger
 *   absent          | the same                                 | the same
 *
 * In the last three an address that cannot stay (canStay) makes the forward pending and drops the incumbent.
 */

/** What a lookup result means for the guest's forwards and for the next pass. */
export interface GuestOutcome {
  /** Undefined: pending. */
  readonly target: Target | undefined;
  /** Why it is pending, or what an admin should know of it. */
  readonly why: Reason | undefined;
  readonly incumbent: Incumbent | undefined;
  /** When time alone changes the outcome, epoch ms. */
  readonly wakeAtMs: number | undefined;
}

/** @param incumbent the outcome of the pass before */
export function toOutcome(
  lookup: LookupResult,
  incumbent: Incumbent | undefined,
  guest: Guest,
  context: LookupContext,
): GuestOutcome {
  switch (lookup.state) {
    case "found":
      return toFound(lookup, incumbent, guest, context);
    case "mac-mismatch":
      return toMismatch(lookup.why, incumbent, context.nowMs);
    case "network-down":
    case "address-refused":
    case "name-conflict":
      return pending(lookup.why, incumbent);
    case "unreadable":
      if (incumbent === undefined || !canStay(incumbent, context)) return pending(lookup.why);
      return keepUnreadable(lookup.why, incumbent);
    case "lease-missing":
    case "absent": {
      if (incumbent === undefined || !canStay(incumbent, context)) return pending(lookup.why);
      const isContested = lookup.state === "lease-missing" && lookup.isContested;
      return linger(lookup.why, isContested, incumbent, context);
    }
  }
}

function toFound(
  { target, note, doubt, previousAddress }: Found,
  before: Incumbent | undefined,
  guest: Guest,
  { nowMs }: LookupContext,
): GuestOutcome {
  const { address, mac, expiresAtMs } = target;
  const hasMoved = before !== undefined && before.address !== address;
  // After a move the guest is probed again soon, however old the doubt about its last address was.
  const recheck = scheduleRecheck(doubt, hasMoved ? undefined : before?.recheck, nowMs);
  const incumbent: Incumbent = {
    guest: guest.name,
    identity: identityText(guest),
    address,
    mac,
    expiresAtMs,
    leaseLostAtMs: undefined,
    recheck,
    previousAddress,
    recentMovesAtMs: recordMove(before?.recentMovesAtMs ?? [], hasMoved, nowMs),
  };
  const wakeAtMs = findEarliest([expiresAtMs, recheck && recheckWakeMs(recheck)]);
  return { target, why: note, incumbent, wakeAtMs };
}

/** The incumbent's address is not confirmed any more: without doubt it would be taken for the guest's without a probe. */
function toMismatch(why: Reason, before: Incumbent | undefined, nowMs: number): GuestOutcome {
  if (before === undefined) return { ...pending(why), wakeAtMs: nextProbeMs(nowMs) };
  const recheck = scheduleRecheck("ambiguous", before.recheck, nowMs);
  return { ...pending(why, { ...before, recheck }), wakeAtMs: recheck?.dueAtMs };
}

function pending(why: Reason, incumbent?: Incumbent): GuestOutcome {
  return { target: undefined, why, incumbent, wakeAtMs: undefined };
}

/** Whether the incumbent's address can still be the guest's: it is not the host's own, and no other MAC leases it. */
function canStay(incumbent: Incumbent, context: LookupContext): boolean {
  return checkNotOwn(incumbent.address, context.ownAddresses) === undefined && !isTaken(incumbent, context);
}

function keepUnreadable({ text }: Reason, incumbent: Incumbent): GuestOutcome {
  const why = createReason(`kept as it was: ${text}`);
  return { target: toTarget(incumbent), incumbent, why, wakeAtMs: undefined };
}

function linger(
  why: Reason,
  isContested: boolean,
  incumbent: Incumbent,
  { nowMs, lingerMs }: LookupContext,
): GuestOutcome {
  const recheck = isContested ? scheduleRecheck("ambiguous", incumbent.recheck, nowMs) : incumbent.recheck;
  // A clock that was set back must not make it linger for longer.
  const leaseLostAtMs = Math.min(incumbent.leaseLostAtMs ?? nowMs, nowMs);
  const endsAtMs = leaseLostAtMs + lingerMs;
  if (nowMs >= endsAtMs) return { ...pending(why), wakeAtMs: isContested ? nextProbeMs(nowMs) : undefined };
  return {
    target: toTarget(incumbent),
    why: { ...why, text: `${why.text}; lingers` },
    incumbent: { ...incumbent, leaseLostAtMs, recheck },
    wakeAtMs: findEarliest([endsAtMs, isContested ? recheck?.dueAtMs : undefined]),
  };
}

/** Without the end of a lease that is lost or cannot be read. */
function toTarget({ address, mac }: Incumbent): Target {
  return { address, mac, expiresAtMs: undefined };
}
