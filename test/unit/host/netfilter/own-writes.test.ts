import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { createOwnWrites } from "../../../../src/host/netfilter/own-writes.ts";

const DELAY_MS = 200;
let shorts: number;
let own: ReturnType<typeof createOwnWrites>;

beforeEach(() => {
  vi.useFakeTimers();
  shorts = 0;
  own = createOwnWrites(DELAY_MS, () => {
    shorts += 1;
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

it("without a change of ours all are others'", () => {
  expect(claims(2)).toEqual(["others", "others"]);
});

it("as many as we make are ours; what comes beside them may be", async () => {
  await change(2, 5);
  expect(claims(3)).toEqual(["ours", "ours", "unsure"]);
  await vi.advanceTimersByTimeAsync(1000);
  expect(claims(1)).toEqual(["others"]);
  expect(shorts).toBe(0);
});

it("fewer than we make are told, once it is late", async () => {
  await change(2);
  expect(claims(1)).toEqual(["ours"]);
  await vi.advanceTimersByTimeAsync(DELAY_MS);
  expect(shorts).toBe(0);
  await vi.advanceTimersByTimeAsync(100);
  expect(shorts).toBe(1);
  expect(claims(1)).toEqual(["others"]);
});

it("a change that goes on is waited for: two families at once, of which one ends first", async () => {
  const long = own.expecting(1, () => after(600));
  await change(1, 5);
  await vi.advanceTimersByTimeAsync(590);
  // Each has ended, and the first's time would be over by now.
  await vi.advanceTimersByTimeAsync(10);
  await long;
  expect(claims(2)).toEqual(["ours", "ours"]);
  await vi.advanceTimersByTimeAsync(1000);
  expect(shorts).toBe(0);
});

it("a change that fails has its events too, or not", async () => {
  const failed = own.expecting(1, () => Promise.reject(new Error("refused")));
  await expect(failed).rejects.toThrow("refused");
  await vi.advanceTimersByTimeAsync(1000);
  expect(shorts).toBe(1);
});
