import { expect, it } from "vitest";
import {
  findBackedOffMoves,
  findMoves,
  nextTryMs,
  NO_REPAIRS,
  recordRepairs,
  withoutMoves,
} from "../../../src/rules/repair-limit.ts";
import type { RepairHistory } from "../../../src/rules/repair-limit.ts";
import type { Diff } from "../../../src/rules/diff.ts";

const T = 1_000_000;
const RULE = '-m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD';
const REJECT = "-o virbr0 -j REJECT";
const MOVE: Diff = [
  { kind: "remove", table: "filter", chain: "FORWARD", rule: RULE, place: 2, blocker: REJECT },
  { kind: "add", table: "filter", chain: "FORWARD", rule: RULE, position: 1, last: false },
];
const ADDITION: Diff = [
  { kind: "add", table: "nat", chain: "KVMNATD-DNAT", rule: "-j ACCEPT", position: 1, last: true },
];

/** A pass that found the jump in a wrong position. */
function meet(
  history: RepairHistory,
  at: number,
): { readonly history: RepairHistory; readonly repaired: boolean } {
  const backedOff = findBackedOffMoves(findMoves(MOVE), history, at);
  const repositioned = backedOff.length === 0 ? findMoves(MOVE) : [];
  return {
    history: recordRepairs(history, { repositioned, backedOff }, at),
    repaired: backedOff.length === 0,
  };
}

function meetAt(...times: readonly number[]): RepairHistory {
  return times.reduce((history, at) => meet(history, T + at).history, NO_REPAIRS);
}

it("finds a move where a rule is removed once and added again", () => {
  expect(findMoves(MOVE)).toMatchObject([{ rule: RULE, blocker: REJECT }]);
});

it("finds no move when the rule is missing or stands twice", () => {
  expect(findMoves(MOVE.slice(1))).toEqual([]);
  expect(findMoves(ADDITION)).toEqual([]);
  expect(findMoves([...MOVE.slice(0, 1), ...MOVE])).toEqual([]);
});

it("takes a backed-off move out of the diff, and nothing else", () => {
  expect(withoutMoves([...MOVE, ...ADDITION], findMoves(MOVE))).toEqual(ADDITION);
});

it("repairs three times in a minute, then once per minute", () => {
  let history = NO_REPAIRS;
  const repairs: number[] = [];
  for (let at = T; at < T + 240_000; at += 100) {
    const met = meet(history, at);
    if (met.repaired) repairs.push(at - T);
    ({ history } = met);
  }
  expect(repairs).toEqual([0, 100, 200, 60_200, 120_200, 180_200]);
});

it("tries again a minute after the last repair", () => {
  expect(nextTryMs(meetAt(0, 100, 200, 300))).toBe(T + 200 + 60_000);
  expect(nextTryMs(meetAt(0, 100))).toBeUndefined();
});

it("forgets everything when the rule has kept its position for a minute", () => {
  let history = meetAt(0, 100, 200, 300, 60_300);
  for (const at of [61_000, 121_000])
    history = recordRepairs(history, { repositioned: [], backedOff: [] }, T + at);
  expect(history).toEqual(NO_REPAIRS);
});
