import { describe, expect, it } from "vitest";
import { isDue, nextProbeMs, scheduleRecheck, recheckWakeMs } from "../../../src/identity/recheck.ts";
import type { Doubt, Recheck } from "../../../src/identity/recheck.ts";
import { NOW } from "../../support/build-values.ts";

/** Ages at which an open doubt is probed, if a pass is made at each wake time. */
function probedAtMs(doubt: Doubt, count: number): readonly number[] {
  const times: number[] = [];
  let recheck: Recheck | undefined;
  let nowMs: number | undefined = NOW;
  while (nowMs !== undefined && times.length < count) {
    times.push(nowMs - NOW);
    recheck = scheduleRecheck(doubt, recheck, nowMs);
    nowMs = recheck === undefined ? undefined : recheckWakeMs(recheck);
  }
  return times;
}

describe("the interval between rechecks", () => {
  it("grows with the age of the doubt from 50 ms to 5 s", () => {
    const start = [0, 50, 100, 200, 400, 800, 1600, 3200, 6400, 11_400, 16_400];
    expect(probedAtMs("silent", start.length)).toEqual(start);
    expect(probedAtMs("ambiguous", start.length)).toEqual(start);
  });

  it("ends after a minute for a silent guest, and never for an ambiguous one", () => {
    expect(probedAtMs("silent", 1000).at(-1)).toBe(56_400);
    expect(probedAtMs("ambiguous", 1000)).toHaveLength(1000);
    expect(probedAtMs("none", 1000)).toEqual([0]);
  });

  it("is one second when the age is unknown", () => {
    expect(nextProbeMs(NOW)).toBe(NOW + 1000);
  });
});

it("keeps a recheck until it is due", () => {
  const first = scheduleRecheck("silent", undefined, NOW);
  expect(scheduleRecheck("silent", first, NOW + 49)).toBe(first);
  expect(scheduleRecheck("silent", first, NOW + 50)).toMatchObject({ sinceMs: NOW, dueAtMs: NOW + 100 });
});

it("starts again when the doubt changes", () => {
  const silent = scheduleRecheck("silent", undefined, NOW - 10_000);
  expect(scheduleRecheck("ambiguous", silent, NOW)).toEqual({
    doubt: "ambiguous",
    sinceMs: NOW,
    dueAtMs: NOW + 50,
  });
  expect(scheduleRecheck("none", silent, NOW)).toBeUndefined();
});

it("is due when the clock was set back", () => {
  expect(isDue({ doubt: "silent", sinceMs: NOW, dueAtMs: NOW + 50 }, NOW - 1)).toBe(true);
  expect(isDue({ doubt: "silent", sinceMs: NOW, dueAtMs: NOW + 50 }, NOW)).toBe(false);
});
