import { describe, expect, it } from "vitest";
import { countRecent, lastMinute, recordEvent } from "../../src/rate-limit.ts";
import type { RecentEvents } from "../../src/rate-limit.ts";

const NOW = 1_700_000_000_000;

describe("lastMinute", () => {
  it("keeps times until they are a minute old", () => {
    expect(lastMinute([NOW - 60_000, NOW - 59_999, NOW], NOW)).toEqual([NOW - 59_999, NOW]);
  });

  it("drops times in the future when the clock was set back", () => {
    expect(lastMinute([NOW + 1, NOW + 3_600_000], NOW)).toEqual([]);
  });
});

describe("recordEvent", () => {
  function record(...events: readonly (readonly [key: string, afterMs: number])[]): RecentEvents {
    return events.reduce<RecentEvents>(
      (recorded, [key, afterMs]) => recordEvent(recorded, key, NOW + afterMs),
      new Map(),
    );
  }

  it("counts the events of each key separately", () => {
    const events = record(["a", 0], ["b", 10], ["a", 20]);
    expect(["a", "b", "c"].map((key) => countRecent(events, key, NOW + 30))).toEqual([2, 1, 0]);
  });

  it("forgets an event after a minute", () => {
    const events = record(["a", 0], ["a", 40_000]);
    expect(countRecent(events, "a", NOW + 59_999)).toBe(2);
    expect(countRecent(events, "a", NOW + 60_000)).toBe(1);
  });

  it("drops keys without an event in the last minute, so that a guest cannot fill the memory", () => {
    expect([...record(["a", 0], ["b", 59_000], ["c", 60_000]).keys()]).toEqual(["b", "c"]);
  });

  it("does not change the events that it is given", () => {
    const before = record(["a", 0]);
    recordEvent(before, "a", NOW + 1);
    expect(before).toEqual(new Map([["a", [NOW]]]));
  });
});
