import { describe, expect, it } from "vitest";
import {
  IDLE,
  onFailure,
  onFileHint,
  onHint,
  onStart,
  onSuccess,
  PASS_GAP_MS,
  SECOND_LOOK_MS,
  sleepMs,
} from "../../../src/core/cadence.ts";

const T = 1_000_000;

describe("a hint", () => {
  it("after a quiet time waits for nothing", () => {
    expect(sleepMs(IDLE, T)).toBeUndefined();
    expect(sleepMs(onHint(IDLE, T), T)).toBe(0);
  });

  it("right after a pass waits for the gap's end", () => {
    const started = onStart(onHint(IDLE, T), T);
    expect(sleepMs(onHint(started, T + 10), T + 10)).toBe(PASS_GAP_MS - 10);
  });

  it("of a file is looked at a second time, once the events have settled", () => {
    const hinted = onFileHint(onFileHint(IDLE, T), T + 5);
    const started = onStart(hinted, T + 5);
    expect(sleepMs(onSuccess(started, T + 20, undefined), T + 20)).toBe(SECOND_LOOK_MS - 15);
    const second = onStart(started, T + 5 + SECOND_LOOK_MS);
    expect(sleepMs(onSuccess(second, T + 200, undefined), T + 200)).toBeUndefined();
  });

  it("during a pass is not lost", () => {
    const running = onStart(onHint(IDLE, T), T);
    const hinted = onHint(running, T + 1);
    expect(sleepMs(onSuccess(hinted, T + 30, undefined), T + 30)).toBe(PASS_GAP_MS - 30);
  });

  it("waits no longer because the clock was set back a day", () => {
    const started = onStart(IDLE, T + 86_400_000);
    expect(sleepMs(onHint(started, T), T)).toBe(0);
  });
});

describe("time", () => {
  it("a lease's end wakes", () => {
    expect(sleepMs(onSuccess(onStart(IDLE, T), T, T + 5000), T)).toBe(5000);
  });

  it("a wake in the past does not make a circle", () => {
    expect(sleepMs(onSuccess(onStart(IDLE, T), T + 1, T - 5), T + 1)).toBeGreaterThan(0);
  });

  it("a lease of a hundred years is looked at earlier: timers take 31 bits", () => {
    expect(sleepMs(onSuccess(IDLE, T, T + 3e12), T)).toBe(3_600_000);
  });
});

it("failures are retried ever more slowly, at last every 30 s; a success forgets them", () => {
  let cadence = IDLE;
  const waits = Array.from({ length: 9 }, () => {
    cadence = onFailure(onStart(cadence, T), T);
    return sleepMs(cadence, T);
  });
  expect(waits).toEqual([250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  expect(onSuccess(onStart(cadence, T), T, undefined).failures).toBe(0);
});
