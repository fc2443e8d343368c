import type { Family } from "../net/address.ts";
import { onFileHint, onHint, onRulesHint } from "./schedule.ts";
import type { Schedule } from "./schedule.ts";

/**
 * What a hint reports.
 *
 *   plain    something may have changed
 *   file     a file or a link has changed, perhaps again soon: a second pass follows
 *   rules    another program has changed rules
 *   resync   everything is to be read, including the ports in use, which no event reports
 *   signal   the same, with a second pass (SIGHUP)
 */
export type HintKind = "plain" | "file" | "rules" | "resync" | "signal";

interface HintRule {
  readonly schedule: (schedule: Schedule, nowMs: number) => Schedule;
  readonly hasSecondLook: boolean;
  readonly isResync: boolean;
}

const HINT_RULES: Readonly<Record<HintKind, HintRule>> = {
  plain: { schedule: onHint, hasSecondLook: false, isResync: false },
  file: { schedule: onFileHint, hasSecondLook: true, isResync: false },
  rules: { schedule: onRulesHint, hasSecondLook: false, isResync: false },
  resync: { schedule: onHint, hasSecondLook: false, isResync: true },
  signal: { schedule: onFileHint, hasSecondLook: true, isResync: true },
};

/** @returns the schedule after a hint */
export function scheduleHint(schedule: Schedule, kind: HintKind, nowMs: number): Schedule {
  return HINT_RULES[kind].schedule(schedule, nowMs);
}

/** Why a pass is made, and what it has to read. */
export interface PassRequest {
  /** For the log. */
  readonly triggers: readonly string[];
  readonly isResync: boolean;
  /** Families of iptables rules that have changed; undefined: anything may have changed. */
  readonly touchedFamilies: ReadonlySet<Family> | undefined;
}

/** The hints since the last pass. */
export interface Hints {
  /** @param family of `rules`: the family whose iptables rules have changed; undefined: any rules */
  add(trigger: string, kind?: HintKind, family?: Family): void;
  /** Takes the hints for a pass that starts. */
  take(look: Look): PassRequest;
}

/** What a pass reads again. If no hint requested the pass, its triggers are those of the pass that read it first. */
interface Look {
  /** No second pass for a changed file follows. */
  readonly isLast: boolean;
  /** The pass before did not use the config on disk, which may have been incomplete. */
  readonly isForConfig: boolean;
}

export function createHints(first: string): Hints {
  const triggers = new Set([first]);
  /** Triggers whose second pass is still to come. */
  const secondLooks = new Set<string>();
  /** Triggers of the pass before. */
  let lastTriggers: readonly string[] = [];
  let isResync = false;
  let touchedFamilies: ReadonlySet<Family> | undefined = new Set();
  return {
    add: (trigger, kind = "plain", family) => {
      triggers.add(trigger);
      touchedFamilies =
        touchedFamilies === undefined || family === undefined
          ? undefined
          : new Set([...touchedFamilies, family]);
      isResync ||= HINT_RULES[kind].isResync;
      if (HINT_RULES[kind].hasSecondLook) secondLooks.add(trigger);
    },
    take: ({ isLast, isForConfig }) => {
      const repeated = isForConfig ? lastTriggers : isLast ? [...secondLooks] : [];
      const taken = triggers.size > 0 ? [...triggers] : repeated;
      lastTriggers = taken.length > 0 ? taken : ["timer"];
      const request = { triggers: lastTriggers, isResync, touchedFamilies };
      triggers.clear();
      if (isLast) secondLooks.clear();
      isResync = false;
      touchedFamilies = new Set();
      return request;
    },
  };
}
