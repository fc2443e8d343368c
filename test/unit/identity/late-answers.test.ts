import { describe, expect, it } from "vitest";
import { parseMac } from "../../../src/net/address.ts";
import type { Mac } from "../../../src/net/address.ts";
import { recordProbes } from "../../../src/identity/late-answers.ts";
import type { ProbeHistories } from "../../../src/identity/late-answers.ts";

const WEB = parseMac("52:54:00:6c:3c:01");
const DB = parseMac("52:54:00:6c:3c:02");
const DB_PLACE = "virbr0 192.168.122.12";

/** Probes one address at these times. `heard` is the kernel's entry before the probe, `answer` what comes in time. */
function probe(
  ...probes: readonly {
    readonly atMs: number;
    readonly heard?: Mac | undefined;
    readonly answer?: Mac | undefined;
    readonly isReadLate?: boolean;
  }[]
): readonly (Mac | undefined)[] {
  let histories: ProbeHistories = new Map();
  return probes.map(({ atMs, heard, answer, isReadLate = false }) => {
    const maps = { earlier: new Map([[DB_PLACE, heard]]), answers: new Map([[DB_PLACE, answer]]) };
    const recorded = recordProbes(histories, { ...maps, isReadLate, endMs: atMs + 5 });
    ({ histories } = recorded);
    return recorded.results.get(DB_PLACE);
  });
}

it("returns a late answer as the result of the next probe", () => {
  expect(probe({ atMs: 0 }, { atMs: 1000, heard: DB })).toEqual([undefined, DB]);
});

it("returns the answer each time when it is late each time", () => {
  const probes = Array.from({ length: 20 }, (_, at) => ({
    atMs: at * 1000,
    heard: at === 0 ? undefined : DB,
  }));
  expect(probe(...probes)).toEqual([undefined, ...Array.from({ length: 19 }, () => DB)]);
});

it("treats an answer that arrives just after the next probe as late", () => {
  expect(probe({ atMs: 0 }, { atMs: 8, answer: DB }, { atMs: 100 })).toEqual([undefined, DB, DB]);
  expect(probe({ atMs: 0 }, { atMs: 500, heard: DB }, { atMs: 508, answer: DB }, { atMs: 600 })).toEqual([
    undefined,
    DB,
    DB,
    DB,
  ]);
});

it("treats an answer that was read too late as late", () => {
  expect(probe({ atMs: 0, answer: DB, isReadLate: true }, { atMs: 100 }, { atMs: 6000 })).toEqual([
    DB,
    DB,
    undefined,
  ]);
});

it("returns a late answer again after answers in time", () => {
  const probes = [
    { atMs: 0 },
    { atMs: 100, heard: DB, answer: DB },
    { atMs: 200, heard: DB, answer: DB },
    { atMs: 300, heard: DB },
  ];
  expect(probe(...probes)).toEqual([undefined, DB, DB, DB]);
});

it("remembers a slow guest while it answers in time", () => {
  const inTime = Array.from({ length: 10 }, (_, at) => ({ atMs: 1000 + at * 1000, heard: DB, answer: DB }));
  expect(probe({ atMs: 0 }, ...inTime, { atMs: 11_000, heard: DB }).at(-1)).toBe(DB);
  expect(probe({ atMs: 0 }, ...inTime, { atMs: 16_000, heard: DB }).at(-1)).toBeUndefined();
});

it("returns the MAC that answered last", () => {
  expect(probe({ atMs: 0 }, { atMs: 500, heard: DB }, { atMs: 1000, answer: WEB }, { atMs: 1500 })).toEqual([
    undefined,
    DB,
    WEB,
    WEB,
  ]);
});

it("returns no answer when a guest that answered in time falls silent", () => {
  expect(probe({ atMs: 0, answer: WEB }, { atMs: 1000, heard: WEB })).toEqual([WEB, undefined]);
  expect(probe({ atMs: 0 }, { atMs: 2000, answer: WEB }, { atMs: 3000, heard: WEB })).toEqual([
    undefined,
    WEB,
    undefined,
  ]);
});

it("forgets a late answer after five seconds", () => {
  expect(probe({ atMs: 0 }, { atMs: 100, heard: DB }, { atMs: 5000 }, { atMs: 5200 })).toEqual([
    undefined,
    DB,
    DB,
    undefined,
  ]);
});

describe("the histories", () => {
  /** Probes these addresses in one pass. */
  function probeAll(
    histories: ProbeHistories,
    atMs: number,
    { silent = [], answered = [] }: { silent?: readonly string[]; answered?: readonly string[] },
  ): ProbeHistories {
    const answers = new Map([
      ...silent.map((key) => [key, undefined] as const),
      ...answered.map((key) => [key, WEB] as const),
    ]);
    return recordProbes(histories, { earlier: new Map(), answers, isReadLate: false, endMs: atMs }).histories;
  }
  const keys = (histories: ProbeHistories): readonly string[] => [...histories.keys()];
  const many = Array.from({ length: 4096 }, (_, at) => `virbr0 ${at}`);

  it("have no address that answered in time", () => {
    expect(keys(probeAll(new Map(), 0, { silent: ["a"], answered: ["b"] }))).toEqual(["a"]);
    const silent = probeAll(new Map(), 0, { silent: ["a"] });
    expect(keys(probeAll(silent, 2000, { answered: ["a"] }))).toEqual([]);
  });

  it("have no late answer that no longer counts", () => {
    const late = probeAll(probeAll(new Map(), 0, { silent: ["a"] }), 100, { answered: ["a"] });
    expect(keys(probeAll(late, 5100, { silent: ["b"] }))).toEqual(["a", "b"]);
    expect(keys(probeAll(late, 5101, { silent: ["b"] }))).toEqual(["b"]);
  });

  it("lose the addresses that were not probed for longest when there are too many", () => {
    const full = probeAll(new Map(), 0, { silent: many });
    const again = probeAll(full, 100, { silent: ["virbr0 0", "new"] });
    expect(again.size).toBe(4096);
    expect(keys(again).slice(-2)).toEqual(["virbr0 0", "new"]);
    expect(again.has("virbr0 1")).toBe(false);
  });

  it("still count for the results of the pass in which there are too many", () => {
    const full = probeAll(new Map(), 0, { silent: many });
    const earlier = new Map([["virbr0 1", DB]]);
    const answers = new Map([...many, "new"].map((key) => [key, undefined]));
    const { histories, results } = recordProbes(full, { earlier, answers, isReadLate: false, endMs: 100 });
    expect(results.get("virbr0 1")).toBe(DB);
    expect(histories.size).toBe(4097);
  });
});
