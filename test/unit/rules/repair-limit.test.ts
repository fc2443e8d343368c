import { expect, it } from "vitest";
import {
  findMoves,
  deferredMoves,
  nextTryMs,
  recordRepairs,
  withoutMoves,
} from "../../../src/rules/repair-limit.ts";
import type { RepairHistory } from "../../../src/rules/repair-limit.ts";
import type { Diff } from "../../../src/rules/diff.ts";

const T = 1_000_000;
const RULE = '-m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD';
const MOVE: Diff = [
  { kind: "remove", table: "filter", chain: "FORWARD", rule: RULE },
  { kind: "add", table: "filter", chain: "FORWARD", rule: RULE, position: 1, last: false },
];
const ADDITION: Diff = [
  { kind: "add", table: "nat", chain: "KVMNATD-DNAT", rule: "-j ACCEPT", position: 1, last: true },
];

/** A pass that found the jump out of place; whether it put it right. */
function meet(
  contests: RepairHistory,
  at: number,
): { readonly contests: RepairHistory; readonly repaired: boolean } {
  const moves = findMoves(MOVE);
  const held = deferredMoves(moves, contests, at);
  return { contests: recordRepairs(contests, moves, held, at), repaired: held.size === 0 };
}

it("a rule that is taken out and put in again is a move; one that is missing, or stands twice, is none", () => {
  expect(findMoves(MOVE).size).toBe(1);
  expect(findMoves(MOVE.slice(1)).size).toBe(0);
  expect(findMoves(ADDITION).size).toBe(0);
  expect(findMoves([...MOVE.slice(0, 1), ...MOVE]).size).toBe(0);
});

it("what is held stays out of the diff, everything else in it", () => {
  expect(withoutMoves([...MOVE, ...ADDITION], findMoves(MOVE))).toEqual(ADDITION);
});

it("three times in a minute it is put right, then once a minute", () => {
  let contests: RepairHistory = new Map();
  const repairs: number[] = [];
  for (let at = T; at < T + 240_000; at += 100) {
    const met = meet(contests, at);
    if (met.repaired) repairs.push(at - T);
    contests = met.contests;
  }
  expect(repairs).toEqual([0, 100, 200, 60_200, 120_200, 180_200]);
});

it("the next try is a minute after the last", () => {
  let contests: RepairHistory = new Map();
  for (const at of [0, 100, 200, 300]) contests = meet(contests, T + at).contests;
  expect(nextTryMs(contests)).toBe(T + 200 + 60_000);
});

it("once it has stood for a minute, all is forgotten", () => {
  let contests: RepairHistory = new Map();
  for (const at of [0, 100, 200, 300]) contests = meet(contests, T + at).contests;
  contests = meet(contests, T + 60_300).contests;
  for (const at of [61_000, 121_000]) contests = recordRepairs(contests, new Set(), new Set(), T + at);
  expect(contests.size).toBe(0);
});
