import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { createOwnWrites } from "../../../../src/host/netfilter/own-writes.ts";

const LATE_MS = 200;
let missing: number;
let own: ReturnType<typeof createOwnWrites>;

beforeEach(() => {
  vi.useFakeTimers();
  missing = 0;
  own = createOwnWrites(() => {
    missing += 1;
  });
});
afterEach(() => vi.useRealTimers());

const after = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
const claims = (count: number): readonly string[] => Array.from({ length: count }, () => own.claim());
const change = async (count: number, ms = 0): Promise<void> => {
  const done = own.expecting(count, () => after(ms));
  await vi.advanceTimersByTimeAsync(ms);
  await done;
};

it("counts every event as foreign without a change of its own", () => {
  expect(claims(2)).toEqual(["foreign", "foreign"]);
});

it("counts as many events as the change makes as its own, and one more as unknown until the change is over", async () => {
  await change(2, 5);
  expect(claims(3)).toEqual(["own", "own", "unknown"]);
  await vi.advanceTimersByTimeAsync(1000);
  expect(claims(1)).toEqual(["foreign"]);
  expect(missing).toBe(0);
});

it("reports missing events, once they are late", async () => {
  await change(2);
  expect(claims(1)).toEqual(["own"]);
  await vi.advanceTimersByTimeAsync(LATE_MS - 1);
  expect(missing).toBe(0);
  await vi.advanceTimersByTimeAsync(100);
  expect(missing).toBe(1);
  expect(claims(1)).toEqual(["foreign"]);
});

it("waits for the longer of two changes at a time", async () => {
  const long = own.expecting(1, () => after(600));
  await change(1, 5);
  await vi.advanceTimersByTimeAsync(590);
  // The timeout of the first change would be over by now.
  await vi.advanceTimersByTimeAsync(10);
  await long;
  expect(claims(2)).toEqual(["own", "own"]);
  await vi.advanceTimersByTimeAsync(1000);
  expect(missing).toBe(0);
});

it("reports missing events of a change that failed, which may have made some", async () => {
  const failed = own.expecting(1, () => Promise.reject(new Error("refused")));
  await expect(failed).rejects.toThrow("refused");
  await vi.advanceTimersByTimeAsync(1000);
  expect(missing).toBe(1);
});
