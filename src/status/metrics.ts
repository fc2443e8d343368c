import type { CountedForward } from "./counters.ts";
import type { DaemonStatus } from "./status.ts";

/** What one pass did. */
export interface PassReport {
  readonly seconds: number;
  /** Triggers of the pass as in the log, in the order in which they came. */
  readonly triggers: readonly string[];
  readonly outcome: "unchanged" | "changed" | "failed";
  readonly added: number;
  readonly removed: number;
  /** Changes among them that only repaired what another program had changed. */
  readonly healed: number;
  /** Why config and lease files cannot be used as they are. */
  readonly configErrors: readonly string[];
  readonly leaseErrors: readonly string[];
}

/** @returns the number of errors that were not there before: an error that stays counts once */
export function countNew(now: readonly string[], before: readonly string[] = []): number {
  const known = new Set(before);
  return now.filter((each) => !known.has(each)).length;
}

/** The log names files and programs; a label must have few values. */
const KINDS: ReadonlyMap<string, string> = new Map([
  ...["start", "config", "resync", "reload", "retry", "timer"].map((name) => [name, name] as const),
  ["SIGHUP", "reload"],
  ["ruleset changed", "rules"],
  ["address or link changed", "links"],
]);

/** @returns the kind of the first trigger, for a label */
export function triggerKind([trigger = "timer"]: readonly string[]): string {
  const known = KINDS.get(trigger);
  if (known !== undefined) return known;
  // libvirt's files, whose names are those of its networks.
  return trigger.startsWith("libvirt") || /\.(status|macs)$/.test(trigger) ? "leases" : "other";
}

/** @returns the number of forwards in each state, also in those that no forward is in */
export function countStates({ forwards }: DaemonStatus): ReadonlyMap<string, number> {
  const states = ["active", "pending", "degraded"] as const;
  return new Map(
    states.map((state) => [state, forwards.filter((forward) => forward.state === state).length]),
  );
}

export const FORWARD_LABELS = ["guest", "protocol", "published", "listen", "target"] as const;
type ForwardLabels = Readonly<Record<(typeof FORWARD_LABELS)[number], string>>;

/** Labels of a forward. Neither a guest's address nor anything that a guest says of itself is among them. */
export function forwardLabels(forward: CountedForward): ForwardLabels {
  const { guest, protocol, published, target, listen, family } = forward;
  const any = family === 6 ? "::" : "0.0.0.0";
  return { guest, protocol, published, listen: listen.join(",") || any, target };
}
