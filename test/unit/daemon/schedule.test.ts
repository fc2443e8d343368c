import { describe, expect, it } from "vitest";
import {
  IDLE,
  passFailed,
  onFileHint,
  onHint,
  onRulesHint,
  passStarted,
  passSucceeded,
  PASS_GAP_MS,
  SECOND_LOOK_MS,
  sleepMs,
} from "../../../src/daemon/schedule.ts";
import type { Schedule } from "../../../src/daemon/schedule.ts";

const T = 1_000_000;
const success = (cadence: Schedule, nowMs: number, wakeAtMs?: number): Schedule =>
  passSucceeded(cadence, nowMs, { changed: false, wakeAtMs });

describe("a hint", () => {
  it("after a quiet time waits for nothing", () => {
    expect(sleepMs(IDLE, T)).toBeUndefined();
    expect(sleepMs(onHint(IDLE, T), T)).toBe(0);
  });

  it("right after a pass waits for the gap's end", () => {
    const started = passStarted(onHint(IDLE, T), T);
    expect(sleepMs(onHint(started, T + 10), T + 10)).toBe(PASS_GAP_MS - 10);
  });

  it("of a file is looked at a second time, once the events have settled", () => {
    const hinted = onFileHint(onFileHint(IDLE, T), T + 5);
    const started = passStarted(hinted, T + 5);
    expect(sleepMs(success(started, T + 20), T + 20)).toBe(SECOND_LOOK_MS - 15);
    const second = passStarted(started, T + 5 + SECOND_LOOK_MS);
    expect(sleepMs(success(second, T + 200), T + 200)).toBeUndefined();
  });

  it("during a pass is not lost", () => {
    const running = passStarted(onHint(IDLE, T), T);
    const hinted = onHint(running, T + 1);
    expect(sleepMs(success(hinted, T + 30), T + 30)).toBe(PASS_GAP_MS - 30);
  });

  it("waits no longer because the clock was set back a day", () => {
    const started = passStarted(onHint(IDLE, T), T + 86_400_000);
    expect(sleepMs(onHint(started, T), T)).toBe(0);
  });
});

describe("somebody's rules", () => {
  const pass = (cadence: Schedule, at: number, changed: boolean): Schedule =>
    passSucceeded(passStarted(cadence, at), at + 20, { changed });

  it("after a quiet time wait for nothing", () => {
    expect(sleepMs(onRulesHint(IDLE, T), T)).toBe(0);
    expect(sleepMs(onRulesHint(pass(onHint(IDLE, T), T, true), T + 200), T + 200)).toBe(0);
  });

  it("that change all the time cost a pass a second, once it is clear that they do", () => {
    let cadence = IDLE;
    const starts: number[] = [];
    for (let now = T; now < T + 10_000; now += 1) {
      cadence = onRulesHint(cadence, now);
      if (sleepMs(cadence, now) !== 0) continue;
      starts.push(now - T);
      cadence = pass(cadence, now, false);
    }
    expect(starts.slice(0, 5)).toEqual([0, 100, 400, 1350, 2300]);
    expect(starts.length).toBeLessThan(14);
  });

  it("that have to be put right are put right at once, again and again", () => {
    let cadence = IDLE;
    for (let index = 0; index < 50; index += 1) {
      const now = T + index * 150;
      cadence = onRulesHint(cadence, now);
      expect(sleepMs(cadence, now)).toBe(0);
      cadence = pass(cadence, now, true);
    }
  });

  it("that are undone two times a second, minute after minute, are put right once a second", () => {
    let cadence = IDLE;
    let passes = 0;
    for (let now = T; now < T + 60_000; now += 10) {
      cadence = onRulesHint(cadence, now);
      if (sleepMs(cadence, now) !== 0) continue;
      passes += 1;
      cadence = pass(cadence, now, true);
    }
    expect(passes).toBeLessThanOrEqual(125);
  });

  it("that are undone for ever are a fight, put right once a second, until a minute after it ends", () => {
    let cadence = IDLE;
    const starts: number[] = [];
    let now = T;
    for (; now < T + 180_000; now += 10) {
      cadence = onRulesHint(cadence, now);
      if (sleepMs(cadence, now) !== 0) continue;
      starts.push(now - T);
      cadence = pass(cadence, now, true);
    }
    expect(cadence.fought).toBe(true);
    expect(starts.filter((start) => start >= 120_000).length).toBeLessThanOrEqual(64);
    const waitMs = sleepMs(cadence, now) ?? 0;
    expect(waitMs).toBeLessThanOrEqual(60_000);
    expect(pass(cadence, now + 61_000, false).fought).toBe(false);
  });

  it("that are put right now and then are no fight", () => {
    let cadence = IDLE;
    for (let now = T; now < T + 300_000; now += 1500) cadence = pass(onRulesHint(cadence, now), now, true);
    expect(cadence.fought).toBe(false);
  });

  it("do not make a lease wait", () => {
    let cadence = IDLE;
    for (const at of [0, 100, 400, 1350]) cadence = pass(onRulesHint(cadence, T + at), T + at, false);
    const hinted = onHint(onRulesHint(cadence, T + 1460), T + 1460);
    expect(sleepMs(hinted, T + 1460)).toBe(0);
  });
});

it("a pass that time alone asked for does not make a hint wait", () => {
  const timed = success(passStarted(success(passStarted(IDLE, T), T, T + 50), T + 50), T + 60);
  expect(sleepMs(onHint(timed, T + 61), T + 61)).toBe(0);
});

describe("time", () => {
  it("a lease's end wakes", () => {
    expect(sleepMs(success(passStarted(IDLE, T), T, T + 5000), T)).toBe(5000);
  });

  it("a wake in the past does not make a circle", () => {
    expect(sleepMs(success(passStarted(IDLE, T), T + 1, T - 5), T + 1)).toBeGreaterThan(0);
  });

  it("that is set back during a pass makes it look again at once", () => {
    const done = success(passStarted(onHint(IDLE, T), T), T - 86_400_000, T + 1000);
    expect(sleepMs(done, T - 86_400_000)).toBe(0);
  });

  it("a lease of a hundred years is looked at earlier: timers take 31 bits", () => {
    expect(sleepMs(success(IDLE, T, T + 3e12), T)).toBe(3_600_000);
  });
});

it("failures are retried ever more slowly, at last every 30 s; a success forgets them", () => {
  let cadence = IDLE;
  const waits = Array.from({ length: 9 }, () => {
    cadence = passFailed(passStarted(cadence, T), T);
    return sleepMs(cadence, T);
  });
  expect(waits).toEqual([250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  expect(success(passStarted(cadence, T), T).failures).toBe(0);
});

describe("what waits for its time", () => {
  const failed = (failures: number, wakeInMs: number): Schedule =>
    passFailed(passStarted({ ...IDLE, failures }, T), T + 10, T + wakeInMs);

  it("does not wait for the retry of what failed, whose pauses grow all the same", () => {
    const cadence = failed(6, 1000);
    expect(sleepMs(cadence, T + 10)).toBe(990);
    expect(cadence.failures).toBe(7);
  });

  it("does not put the retry off", () => {
    expect(sleepMs(failed(0, 60_000), T + 10)).toBe(250);
  });

  it("makes no circle when it is over already", () => {
    expect(sleepMs(failed(6, -5), T + 10)).toBe(PASS_GAP_MS - 10);
  });
});
