/** How long after a change of our own its events may still be under way: 2 ms, rarely 10; more on a busy host. */
const LATE_MS = 50;

/** Whose an event is: one that we wait for, perhaps one of ours, or another's. */
type Claim = "ours" | "unsure" | "others";

export interface OwnWrites {
  /**
   * Runs a change of our own.
   * @param count how many events it makes
   */
  expecting<T>(count: number, change: () => Promise<T>): Promise<T>;
  /** Counts an event. */
  claim(): Claim;
}

/**
 * Tells our own events from those of others, which look alike, by their number: as many as we make are ours, each in
 * its time, so that one of another in between is told all the same when ours comes.
 * @param delayMs how much later than they happen events may be told
 * @param onShort told when fewer came than we made: the change failed or was cut short, or something was missed
 */
export function createOwnWrites(delayMs: number, onShort: () => void): OwnWrites {
  let expected = 0;
  let underWay = 0;
  let settling: NodeJS.Timeout | undefined;

  function settle(): void {
    settling = undefined;
    if (expected === 0) return;
    expected = 0;
    onShort();
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
        if (underWay === 0) settling = setTimeout(settle, delayMs + LATE_MS).unref();
      }
    },
    claim: () => {
      if (expected === 0) return underWay > 0 || settling !== undefined ? "unsure" : "others";
      expected -= 1;
      return "ours";
    },
  };
}
