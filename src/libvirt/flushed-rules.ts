import type { Family } from "../net/address.ts";
import { rejectedBridges } from "./missing-jump.ts";
import type { Actual } from "../rules/ruleset.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";

/*
 * libvirt puts back its rules only when it starts: somebody who flushed them has opened the guests, until then. Which
 * networks should have some is in files that are root's alone (isolated ones do, those of forward mode `open` do not).
 * So what was there and is gone while its bridge stayed is told, and what never was there is not.
 */

/** A bridge for which libvirt had rules, in one family. */
export interface BridgeWithLibvirtRules {
  readonly family: Family;
  readonly bridge: string;
  /** The bridge's number: one that was made anew is another network, perhaps of another kind. */
  readonly ifindex: number;
  /** Since when there are none (epoch ms); absent while there are. */
  readonly goneAtMs?: number;
}

/** libvirt itself takes its rules away for 0.4 s when it starts or changes a network, longer on a busy host. */
export const GONE_MS = 5000;

/**
 * @param before what the previous pass found; empty at start: rules flushed before the start cannot be noticed
 * @param sides of each family what the kernel has in either variant of iptables; none where it cannot be read
 * @param up bridges that are up, with their numbers
 */
export function trackLibvirtRules(
  before: readonly BridgeWithLibvirtRules[],
  sides: ReadonlyMap<Family, readonly Actual[]>,
  up: ReadonlyMap<string, number>,
  nowMs: number,
): readonly BridgeWithLibvirtRules[] {
  const seen = [...sides].flatMap(([family, actuals]) =>
    [...new Set(actuals.flatMap(rejectedBridges))].flatMap((bridge): readonly BridgeWithLibvirtRules[] => {
      const ifindex = up.get(bridge);
      return ifindex === undefined ? [] : [{ family, bridge, ifindex }];
    }),
  );
  const missing = before.filter(
    (each) =>
      up.get(each.bridge) === each.ifindex &&
      !seen.some(({ family, bridge }) => family === each.family && bridge === each.bridge),
  );
  const gone = missing.map((each) => {
    // What cannot be read at the moment is not gone.
    const isRead = (sides.get(each.family) ?? []).length > 0;
    return isRead ? { ...each, goneAtMs: Math.min(each.goneAtMs ?? nowMs, nowMs) } : each;
  });
  return [...seen, ...gone];
}

/** @returns what is told, and when to look again (epoch ms) before that is certain */
export function findFlushedBridges(
  guarded: readonly BridgeWithLibvirtRules[],
  nowMs: number,
): { readonly problems: readonly Diagnostic[]; readonly wakeAtMs?: number } {
  const gone = guarded.flatMap(({ family, bridge, goneAtMs }) =>
    goneAtMs === undefined ? [] : [{ family, bridge, certainAtMs: goneAtMs + GONE_MS }],
  );
  const certain = Map.groupBy(
    gone.filter(({ certainAtMs }) => certainAtMs <= nowMs),
    ({ family }) => family,
  );
  const waits = gone.map(({ certainAtMs }) => certainAtMs).filter((at) => at > nowMs);
  const problems = [...certain].map(([family, rows]) => {
    const bridges = rows.map(({ bridge }) => bridge).join(", ");
    const message =
      `libvirt's IPv${family} rules for ${bridges} are gone, somebody flushed them: guests there are open to whoever ` +
      "routes to them, and not masqueraded; `systemctl restart libvirtd` (or virtnetworkd) puts them back";
    return createWarning("libvirt-rules-missing", message);
  });
  return waits.length === 0 ? { problems } : { problems, wakeAtMs: Math.min(...waits) };
}
