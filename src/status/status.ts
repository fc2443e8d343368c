import { familyOf, formatPorts } from "../net/address.ts";
import type { Family, Protocol } from "../net/address.ts";
import { describeDiagnostic } from "../diagnostic.ts";
import type { Diagnostic } from "../diagnostic.ts";
import type { Forward } from "../config/port-map.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import type { Variant } from "../rules/ruleset.ts";

/** Version of the schema of status.json. A new field keeps it; a changed or removed field requires the next one. */
export const STATUS_SCHEMA = 1;

type ForwardState = "active" | "pending" | "degraded";

/** One published port, in one family, as status.json and `status --json` show it. */
export interface ForwardStatus {
  readonly guest: string;
  readonly protocol: Protocol;
  /** `1122`, `30000-30099`. */
  readonly published: string;
  readonly target: string;
  /** Host addresses, or the listen values of the config while the host has none; empty: every address of the family. */
  readonly listen: readonly string[];
  readonly family: Family;
  readonly state: ForwardState;
  /** The guest's address; null while it is unknown. */
  readonly address: string | null;
  readonly mac: string | null;
  /** The reason if it is not active, or a note; null for none. */
  readonly why: string | null;
  /** ISO 8601; null without a lease and for an infinite one. */
  readonly leaseExpires: string | null;
}

/** A diagnostic as status.json and `status --json` show it: its message begins with its place, if it has one. */
export type PublishedProblem = Pick<Diagnostic, "code" | "message" | "severity">;

export interface DaemonStatus {
  readonly schema: typeof STATUS_SCHEMA;
  readonly version: string;
  readonly pid: number;
  /** Distinguishes the daemon from a later process with the same pid. */
  readonly startTicks: string;
  readonly config: string;
  readonly startedAt: string;
  readonly updatedAt: string;
  /** Number of the pass that wrote this. */
  readonly pass: number;
  readonly iptables: Variant | null;
  readonly problems: readonly PublishedProblem[];
  readonly forwards: readonly ForwardStatus[];
}

/** @returns the line of `systemctl status`: the reason for waiting, the number of active forwards, the first error */
export function summarize({ forwards, problems }: Pick<DaemonStatus, "forwards" | "problems">): string {
  const active = forwards.filter(({ state }) => state === "active").length;
  const waits = problems.find(({ code }) => code === "waiting");
  const fault = problems.find(({ severity }) => severity === "error");
  const counted = `${active} of ${forwards.length} forwards active`;
  const parts = [
    ...(waits === undefined ? [counted] : [waits.message, counted]),
    ...(fault === undefined ? [] : [fault.message]),
  ];
  // systemctl shows one line.
  return parts.map((part) => part.replaceAll(/\s+/g, " ")).join("; ");
}

/** @param failure why its rules do not help, though its guest is there; undefined: they do */
export function toForwardStatus(resolved: ResolvedForward, failure: string | undefined): ForwardStatus {
  const { forward, target, family, hostAddresses, why } = resolved;
  const expires = target?.expiresAtMs;
  return {
    guest: forward.guest,
    protocol: forward.protocol,
    published: formatPorts(forward.published),
    target: formatPorts(forward.target),
    listen: hostAddresses.length > 0 ? hostAddresses : namedListens(forward, family),
    family,
    state: target === undefined ? "pending" : failure === undefined ? "active" : "degraded",
    address: target?.address ?? null,
    mac: target?.mac ?? null,
    why: (target === undefined ? why?.text : (failure ?? why?.text)) ?? null,
    // Beyond the year 275760 a Date has no text.
    leaseExpires: expires === undefined || expires > 8.64e15 ? null : new Date(expires).toISOString(),
  };
}

function namedListens({ listen }: Forward, family: Family): readonly string[] {
  if (listen.some((each) => each.kind === "any" && each.family === family)) return [];
  return listen.flatMap((each) => {
    if (each.kind === "interface") return [each.name];
    return each.kind === "address" && familyOf(each.address) === family ? [each.address] : [];
  });
}

export function toPublishedProblem(diagnostic: Diagnostic): PublishedProblem {
  return { code: diagnostic.code, message: describeDiagnostic(diagnostic), severity: diagnostic.severity };
}
