/** Timeout for the events of kvmnatd's own change after its end: they take 2 ms, rarely 10, and more on a busy host. */
const LATE_MS = 200;

/** `unknown`: more events than kvmnatd's own change makes came while it was under way, so one of them is foreign. */
type EventOrigin = "own" | "unknown" | "foreign";

export interface OwnWrites {
  /**
   * Runs a change of kvmnatd's own.
   * @param count number of events that it makes
   */
  expecting<T>(count: number, change: () => Promise<T>): Promise<T>;
  /** Counts an event. */
  claim(): EventOrigin;
}

/**
 * Counts events, because an event does not name its author: a write of N rules accounts for the next N events. If a
 * foreign event arrives in between, one own event is left over and reported as `unknown`, so no change is missed.
 * @param onMissing called when fewer events came than the changes should make: one failed, or an event was lost
 */
export function createOwnWrites(onMissing: () => void): OwnWrites {
  let expected = 0;
  let underWay = 0;
  let settling: NodeJS.Timeout | undefined;

  function settle(): void {
    settling = undefined;
    if (expected === 0) return;
    expected = 0;
    onMissing();
  }

  return {
    expecting: async (count, change) => {
      expected += count;
      underWay += 1;
      clearTimeout(settling);
      settling = undefined;
      try {
        return await change();
      } finally {
        underWay -= 1;
        if (underWay === 0) settling = setTimeout(settle, LATE_MS).unref();
      }
    },
    claim: () => {
      if (expected === 0) return underWay > 0 || settling !== undefined ? "unknown" : "foreign";
      expected -= 1;
      return "own";
    },
  };
}
