import type { Family } from "../net/address.ts";
import { findEarliest } from "../earliest.ts";
import { findRejectedBridges } from "./missing-jump.ts";
import type { Actual } from "../rules/ruleset.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";

/*
 * libvirt restores its rules only when it starts: after another program flushed them, the guests are open until then.
 * Only root can read which networks should have rules (isolated ones have, those of forward mode `open` have not). So
 * kvmnatd reports rules that it has seen and that vanished while their bridge stayed.
 */

/** A bridge for which libvirt had rules, in one family. */
export interface BridgeWithLibvirtRules {
  readonly family: Family;
  readonly bridge: string;
  /** The bridge's index: a bridge that was created again is another network, perhaps of another kind. */
  readonly ifindex: number;
  /** When its rules vanished, epoch ms; undefined while they exist. */
  readonly goneAtMs: number | undefined;
}

/** Timeout for rules to come back: libvirt removes them for 0.4 s when it starts or changes a network, longer under load. */
export const GONE_MS = 5000;

/**
 * @param before what the previous pass found; empty at start: rules flushed before the start cannot be noticed
 * @param rulesets by family, the rulesets of both variants of iptables; empty when they cannot be read
 * @param up the indexes of the bridges that are up
 */
export function trackLibvirtRules(
  before: readonly BridgeWithLibvirtRules[],
  rulesets: ReadonlyMap<Family, readonly Actual[]>,
  up: ReadonlyMap<string, number>,
  nowMs: number,
): readonly BridgeWithLibvirtRules[] {
  const seen = [...rulesets].flatMap(([family, actuals]) =>
    [...new Set(actuals.flatMap(findRejectedBridges))].flatMap(
      (bridge): readonly BridgeWithLibvirtRules[] => {
        const ifindex = up.get(bridge);
        return ifindex === undefined ? [] : [{ family, bridge, ifindex, goneAtMs: undefined }];
      },
    ),
  );
  const missing = before.filter(
    (each) =>
      up.get(each.bridge) === each.ifindex &&
      !seen.some(({ family, bridge }) => family === each.family && bridge === each.bridge),
  );
  const gone = missing.map((each) => {
    // Rules that cannot be read now have not vanished.
    const isRead = (rulesets.get(each.family) ?? []).length > 0;
    return isRead ? { ...each, goneAtMs: Math.min(each.goneAtMs ?? nowMs, nowMs) } : each;
  });
  return [...seen, ...gone];
}

/** @returns the problems, and when rules that vanished lately become one, epoch ms */
export function findFlushedBridges(
  bridges: readonly BridgeWithLibvirtRules[],
  nowMs: number,
): { readonly problems: readonly Diagnostic[]; readonly wakeAtMs: number | undefined } {
  const gone = bridges.flatMap(({ family, bridge, goneAtMs }) =>
    goneAtMs === undefined ? [] : [{ family, bridge, certainAtMs: goneAtMs + GONE_MS }],
  );
  const certain = Map.groupBy(
    gone.filter(({ certainAtMs }) => certainAtMs <= nowMs),
    ({ family }) => family,
  );
  const waits = gone.map(({ certainAtMs }) => certainAtMs).filter((at) => at > nowMs);
  const problems = [...certain].map(([family, rows]) => {
    const names = rows.map(({ bridge }) => bridge).join(", ");
    const message =
      `libvirt's IPv${family} rules for ${names} are gone, another program flushed them: guests there are open to every host that ` +
      "routes to them, and not masqueraded; `systemctl restart libvirtd` (or virtnetworkd) restores them";
    return createWarning("libvirt-rules-missing", message);
  });
  return { problems, wakeAtMs: findEarliest(waits) };
}
