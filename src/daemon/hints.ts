import type { Family } from "../net/address.ts";

/** `file`: a second pass follows when the events have settled. `rules`: another program may keep changing them, so wait. */
export type HintKind = "plain" | "file" | "rules";

/** Why the next pass is made. */
export interface Hints {
  /** @param family of `rules`: iptables' rules of which family, if no others may have changed */
  add(trigger: string, kind?: HintKind, family?: Family): void;
  /** What made the pass run that begins. A second look has the reason of the first. */
  takeTriggers(isSecondLook: boolean): readonly string[];
  /** Families whose iptables rules have changed since the last call; undefined when anything else may have changed. */
  takeTouched(): ReadonlySet<Family> | undefined;
}

export function createHints(first: string): Hints {
  const triggers = new Set([first]);
  /** What there is to look at once more. */
  const unsettled = new Set<string>();
  let touched: ReadonlySet<Family> | undefined = new Set();
  return {
    add: (trigger, kind = "plain", family) => {
      triggers.add(trigger);
      touched = touched === undefined || family === undefined ? undefined : new Set([...touched, family]);
      if (kind === "file") unsettled.add(trigger);
    },
    takeTriggers: (isSecondLook) => {
      const taken = triggers.size === 0 && isSecondLook ? [...unsettled] : [...triggers];
      triggers.clear();
      if (isSecondLook) unsettled.clear();
      return taken.length === 0 ? ["timer"] : taken;
    },
    takeTouched: () => {
      const taken = touched;
      touched = new Set();
      return taken;
    },
  };
}
