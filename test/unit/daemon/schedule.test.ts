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
const success = (schedule: Schedule, nowMs: number, wakeAtMs?: number): Schedule =>
  passSucceeded(schedule, nowMs, { changed: false, wakeAtMs });

describe("a hint", () => {
  it("starts a pass at once after a quiet time", () => {
    expect(sleepMs(IDLE, T)).toBeUndefined();
    expect(sleepMs(onHint(IDLE, T), T)).toBe(0);
  });

  it("waits until the gap ends right after a pass", () => {
    const started = passStarted(onHint(IDLE, T), T);
    expect(sleepMs(onHint(started, T + 10), T + 10)).toBe(PASS_GAP_MS - 10);
  });

  it("of a file requests a second pass after the events have settled", () => {
    const hinted = onFileHint(onFileHint(IDLE, T), T + 5);
    const started = passStarted(hinted, T + 5);
    expect(sleepMs(success(started, T + 20), T + 20)).toBe(SECOND_LOOK_MS - 15);
    const second = passStarted(started, T + 5 + SECOND_LOOK_MS);
    expect(sleepMs(success(second, T + 200), T + 200)).toBeUndefined();
  });

  it("is kept during a pass", () => {
    const running = passStarted(onHint(IDLE, T), T);
    const hinted = onHint(running, T + 1);
    expect(sleepMs(success(hinted, T + 30), T + 30)).toBe(PASS_GAP_MS - 30);
  });

  it("does not wait longer after the clock was set back by a day", () => {
    const started = passStarted(onHint(IDLE, T), T + 86_400_000);
    expect(sleepMs(onHint(started, T), T)).toBe(0);
  });
});

describe("a rules hint", () => {
  const pass = (schedule: Schedule, at: number, changed: boolean): Schedule =>
    passSucceeded(passStarted(schedule, at), at + 20, { changed, wakeAtMs: undefined });

  it("starts a pass at once after a quiet time", () => {
    expect(sleepMs(onRulesHint(IDLE, T), T)).toBe(0);
    expect(sleepMs(onRulesHint(pass(onHint(IDLE, T), T, true), T + 200), T + 200)).toBe(0);
  });

  it("costs one pass per second when rules change all the time without effect", () => {
    let schedule = IDLE;
    const starts: number[] = [];
    for (let now = T; now < T + 10_000; now += 1) {
      schedule = onRulesHint(schedule, now);
      if (sleepMs(schedule, now) !== 0) continue;
      starts.push(now - T);
      schedule = pass(schedule, now, false);
    }
    expect(starts.slice(0, 5)).toEqual([0, 100, 400, 1350, 2300]);
    expect(starts.length).toBeLessThan(14);
  });

  it("starts each of 50 repairs at once when another program changes the rules every 150 ms", () => {
    let schedule = IDLE;
    for (let index = 0; index < 50; index += 1) {
      const now = T + index * 150;
      schedule = onRulesHint(schedule, now);
      expect(sleepMs(schedule, now)).toBe(0);
      schedule = pass(schedule, now, true);
    }
  });

  it("starts at most 125 passes in the first minute when another program overwrites the rules all the time", () => {
    let schedule = IDLE;
    let passes = 0;
    for (let now = T; now < T + 60_000; now += 10) {
      schedule = onRulesHint(schedule, now);
      if (sleepMs(schedule, now) !== 0) continue;
      passes += 1;
      schedule = pass(schedule, now, true);
    }
    expect(passes).toBeLessThanOrEqual(125);
  });

  it("repairs rules that another program keeps overwriting once per second, and reports it until a minute after the end", () => {
    let schedule = IDLE;
    const starts: number[] = [];
    let now = T;
    for (; now < T + 180_000; now += 10) {
      schedule = onRulesHint(schedule, now);
      if (sleepMs(schedule, now) !== 0) continue;
      starts.push(now - T);
      schedule = pass(schedule, now, true);
    }
    expect(schedule.overwritten).toBe(true);
    expect(starts.filter((start) => start >= 120_000).length).toBeLessThanOrEqual(64);
    const waitMs = sleepMs(schedule, now) ?? 0;
    expect(waitMs).toBeLessThanOrEqual(60_000);
    expect(pass(schedule, now + 61_000, false).overwritten).toBe(false);
  });

  it("does not report overwritten rules after occasional repairs", () => {
    let schedule = IDLE;
    for (let now = T; now < T + 300_000; now += 1500) schedule = pass(onRulesHint(schedule, now), now, true);
    expect(schedule.overwritten).toBe(false);
  });

  it("does not delay a lease", () => {
    let schedule = IDLE;
    for (const at of [0, 100, 400, 1350]) schedule = pass(onRulesHint(schedule, T + at), T + at, false);
    const hinted = onHint(onRulesHint(schedule, T + 1460), T + 1460);
    expect(sleepMs(hinted, T + 1460)).toBe(0);
  });
});

it("a pass that time alone started does not count as a pass for rules of other programs", () => {
  const served = success(passStarted(onRulesHint(IDLE, T), T), T + 5, T + 100);
  const timed = passStarted(served, T + 200);
  expect(timed.servedRequest).toBeUndefined();
  expect(passSucceeded(timed, T + 205, { changed: true, wakeAtMs: undefined }).repairedAtMs).toEqual([]);
});

it("a pass that time alone started does not delay a hint", () => {
  const timed = success(passStarted(success(passStarted(IDLE, T), T, T + 50), T + 50), T + 60);
  expect(sleepMs(onHint(timed, T + 61), T + 61)).toBe(0);
});

describe("a time that is due", () => {
  it("starts a pass, such as the end of a lease", () => {
    expect(sleepMs(success(passStarted(IDLE, T), T, T + 5000), T)).toBe(5000);
  });

  it("does not start pass after pass when it is in the past", () => {
    expect(sleepMs(success(passStarted(IDLE, T), T + 1, T - 5), T + 1)).toBeGreaterThan(0);
  });

  it("is not that of a second look when the clock was set back by a day before it", () => {
    const before = passStarted(onFileHint(IDLE, T), T);
    const started = passStarted(before, T - 86_400_000);
    expect(sleepMs(success(started, T - 86_400_000), T - 86_400_000)).toBeUndefined();
  });

  it("is limited to an hour ahead, because timers take 31 bits", () => {
    expect(sleepMs(success(IDLE, T, T + 3e12), T)).toBe(3_600_000);
  });
});

it("failures are retried at growing intervals, at last every 30 s, until a success", () => {
  let schedule = IDLE;
  const waits = Array.from({ length: 9 }, () => {
    schedule = passFailed(passStarted(schedule, T), T);
    return sleepMs(schedule, T);
  });
  expect(waits).toEqual([250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  expect(success(passStarted(schedule, T), T).failures).toBe(0);
});

describe("a time that is due after a failure", () => {
  const failed = (failures: number, wakeInMs: number): Schedule =>
    passFailed(passStarted({ ...IDLE, failures }, T), T + 10, T + wakeInMs);

  it("does not wait for the retry, whose interval grows nevertheless", () => {
    const schedule = failed(6, 1000);
    expect(sleepMs(schedule, T + 10)).toBe(990);
    expect(schedule.failures).toBe(7);
  });

  it("does not delay the retry", () => {
    expect(sleepMs(failed(0, 60_000), T + 10)).toBe(250);
  });

  it("does not start pass after pass when it is in the past", () => {
    expect(sleepMs(failed(6, -5), T + 10)).toBe(PASS_GAP_MS - 10);
  });
});
