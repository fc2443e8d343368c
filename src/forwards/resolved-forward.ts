import { familyOf } from "../net/address.ts";
import type { Family, Ip, PortRange } from "../net/address.ts";
import type { Target } from "../identity/lookup.ts";
import { createReason } from "../identity/reason.ts";
import type { Reason } from "../identity/reason.ts";
import type { GuestOutcome } from "./outcome.ts";
import { describeTaken } from "./host-addresses.ts";
import type { ListenAssignments } from "./host-addresses.ts";
import type { Forward, Guest } from "../config/port-map.ts";

/** A published port of the config with the guest's address now, in one family. */
export interface ResolvedForward {
  readonly forward: Forward;
  readonly family: Family;
  /** The host addresses that it is published on; empty: any. */
  readonly hostAddresses: readonly Ip[];
  /** Undefined: pending. */
  readonly target: Target | undefined;
  /** Why it is pending, or what an admin should know of an active one. */
  readonly why: Reason | undefined;
}

/** Families in which a guest's ports are published. */
export function findPublishedFamilies(guest: Guest, places: ListenAssignments): readonly Family[] {
  const own = guest.identity.kind === "address" ? familyOf(guest.identity.address) : undefined;
  return ([4, 6] as const).filter(
    (family) =>
      (own === undefined || own === family) &&
      guest.forwards.some((forward) => places.get(forward)?.[family] !== undefined),
  );
}

/** The resolved forward in one family, if it is published there. */
export function resolveForward(
  forward: Forward,
  family: Family,
  places: ListenAssignments,
  outcome: Pick<GuestOutcome, "target" | "why">,
): readonly ResolvedForward[] {
  const own = places.get(forward) ?? {};
  const place = own[family];
  if (place === undefined) return [];
  const { any, addresses, notes } = place;
  const taken = place.taken.map((each) => createReason(describeTaken(each)));
  const pending = { forward, family, hostAddresses: any ? [] : addresses, target: undefined };
  if (!letsIn(forward, family)) {
    const other = family === 4 ? 6 : 4;
    const isElsewhere = own[other] !== undefined && letsIn(forward, other);
    return isElsewhere ? [] : [{ ...pending, why: createReason(`\`allow\` has no IPv${family} source`) }];
  }
  if (outcome.target === undefined) {
    // An interface's IPv6 address alone promises nothing: no line for a guest that has only IPv4.
    const isImplied = family === 6 && forward.listen.every((listen) => listen.kind === "interface");
    if (isImplied && own[4] !== undefined) return [];
    return [{ ...pending, why: joinReasons([outcome.why, ...taken]) }];
  }
  const isPublished = any || addresses.length > 0;
  const why = joinReasons([...taken, ...notes.map(createReason), outcome.why]);
  return [{ ...pending, target: isPublished ? outcome.target : undefined, why }];
}

/** Joins the texts in their order. A conflict among them makes the whole a conflict; else the first one has the kind. */
function joinReasons(reasons: readonly (Reason | undefined)[]): Reason | undefined {
  const known = reasons.filter((each) => each !== undefined);
  const decisive = known.find(({ kind }) => kind === "conflict") ?? known[0];
  return decisive && { ...decisive, text: known.map(({ text }) => text).join("; ") };
}

function letsIn({ allow }: Forward, family: Family): boolean {
  return allow.length === 0 || allow.some((cidr) => cidr.family === family);
}

/** Published ports that lead to a guest. */
export interface PortTarget {
  readonly family: Family;
  readonly protocol: string;
  readonly range: PortRange;
  readonly address: Ip;
}

/** Where the forwards lead now. */
export function toPortTargets(forwards: readonly ResolvedForward[]): readonly PortTarget[] {
  return forwards.flatMap(({ family, forward: { protocol, published: range }, target }) =>
    target === undefined ? [] : [{ family, protocol, range, address: target.address }],
  );
}
