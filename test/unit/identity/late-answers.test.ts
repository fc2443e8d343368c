import { expect, it } from "vitest";
import { parseMac } from "../../../src/net/address.ts";
import type { Mac } from "../../../src/net/address.ts";
import { createLateAnswers } from "../../../src/identity/late-answers.ts";

const PLACE = "virbr0 192.168.122.50";
const WEB = parseMac("52:54:00:6c:3c:01");
const DB = parseMac("52:54:00:6c:3c:02");

/** Asks at these times; `heard` is what the kernel has before it is asked anew, `answer` what comes in time. */
function ask(
  ...questions: readonly {
    readonly atMs: number;
    readonly heard?: Mac | undefined;
    readonly answer?: Mac | undefined;
  }[]
): readonly (Mac | undefined)[] {
  const lateAnswers = createLateAnswers();
  return questions.map(({ atMs, heard, answer }) => {
    lateAnswers.note(new Map([[PLACE, heard]]), atMs);
    return lateAnswers.complete(new Map([[PLACE, answer]]), atMs + 5).get(PLACE);
  });
}

it("who answered after its question is heard with the next", () => {
  expect(ask({ atMs: 0 }, { atMs: 1000, heard: DB })).toEqual([undefined, DB]);
});

it("who is late each time is heard each time", () => {
  const questions = Array.from({ length: 20 }, (_, at) => ({
    atMs: at * 1000,
    heard: at === 0 ? undefined : DB,
  }));
  expect(ask(...questions)).toEqual([undefined, ...Array.from({ length: 19 }, () => DB)]);
});

it("a late answer that another question catches is late all the same", () => {
  expect(ask({ atMs: 0 }, { atMs: 8, answer: DB }, { atMs: 100 })).toEqual([undefined, DB, DB]);
  expect(ask({ atMs: 0 }, { atMs: 500, heard: DB }, { atMs: 508, answer: DB }, { atMs: 600 })).toEqual([
    undefined,
    DB,
    DB,
    DB,
  ]);
});

it("an answer that was read too late may have been late", () => {
  const lateAnswers = createLateAnswers();
  lateAnswers.note(new Map(), 0);
  expect(lateAnswers.complete(new Map([[PLACE, DB]]), 40, true).get(PLACE)).toBe(DB);
  expect(lateAnswers.complete(new Map([[PLACE, undefined]]), 105).get(PLACE)).toBe(DB);
  lateAnswers.note(new Map(), 6000);
  expect(lateAnswers.complete(new Map([[PLACE, undefined]]), 6005).get(PLACE)).toBeUndefined();
});

it("who was late and then in time is late again", () => {
  const questions = [
    { atMs: 0 },
    { atMs: 100, heard: DB, answer: DB },
    { atMs: 200, heard: DB, answer: DB },
    { atMs: 300, heard: DB },
  ];
  expect(ask(...questions)).toEqual([undefined, DB, DB, DB]);
});

it("who was late once and is in time for long is still known to be slow", () => {
  const inTime = Array.from({ length: 10 }, (_, at) => ({ atMs: 1000 + at * 1000, heard: DB, answer: DB }));
  expect(ask({ atMs: 0 }, ...inTime, { atMs: 11_000, heard: DB }).at(-1)).toBe(DB);
  expect(ask({ atMs: 0 }, ...inTime, { atMs: 16_000, heard: DB }).at(-1)).toBeUndefined();
});

it("the latest to answer counts", () => {
  expect(ask({ atMs: 0 }, { atMs: 500, heard: DB }, { atMs: 1000, answer: WEB }, { atMs: 1500 })).toEqual([
    undefined,
    DB,
    WEB,
    WEB,
  ]);
});

it("who answers in time and falls silent has left", () => {
  expect(ask({ atMs: 0, answer: WEB }, { atMs: 1000, heard: WEB })).toEqual([WEB, undefined]);
  expect(ask({ atMs: 0 }, { atMs: 2000, answer: WEB }, { atMs: 3000, heard: WEB })).toEqual([
    undefined,
    WEB,
    undefined,
  ]);
});

it("a late answer is forgotten five seconds after the last", () => {
  expect(ask({ atMs: 0 }, { atMs: 100, heard: DB }, { atMs: 5000 }, { atMs: 5200 })).toEqual([
    undefined,
    DB,
    DB,
    undefined,
  ]);
});
