import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseSave } from "../../../src/rules/parse-save.ts";
import { createFakeIptables } from "../../support/fake-iptables.ts";
import { createLab } from "../../support/lab.ts";
import type { Lab } from "../../support/lab.ts";

/** The same inputs to the fake of the property tests and to both real iptables: so that the fake cannot lie. */
const SECTION = (table: string, ...lines: readonly string[]): string =>
  `*${table}\n${lines.join("\n")}\nCOMMIT\n`;
const RULE = '-p tcp -m tcp --dport 1122 -m comment --comment "kvmnatd:web 52:54:00:6c:3c:01" -j ACCEPT';
const OTHER = "-s 10.0.0.0/8 -j DROP";

const INPUTS: readonly (readonly [what: string, ...texts: readonly string[]])[] = [
  ["a chain and a rule", SECTION("filter", ":OWN - [0:0]", `-A OWN ${RULE}`, "-A FORWARD -j OWN")],
  [
    "a chain named again is emptied",
    SECTION("filter", ":OWN - [0:0]", `-A OWN ${OTHER}`),
    SECTION("filter", ":OWN - [0:0]"),
  ],
  [
    "inserted by position",
    SECTION("filter", `-A FORWARD ${OTHER}`, `-I FORWARD 1 ${RULE}`, "-I FORWARD 2 -j ACCEPT"),
  ],
  [
    "-D takes the first of equals",
    SECTION(
      "filter",
      `-A FORWARD ${OTHER}`,
      "-A FORWARD -j ACCEPT",
      `-A FORWARD ${OTHER}`,
      `-D FORWARD ${OTHER}`,
    ),
  ],
  [
    "-D by places, from the end",
    SECTION(
      "filter",
      `-A FORWARD ${OTHER}`,
      "-A FORWARD -j ACCEPT",
      `-A FORWARD ${RULE}`,
      "-D FORWARD 3",
      "-D FORWARD 1",
    ),
  ],
  [
    "a policy, which empties nothing",
    SECTION("filter", `-A FORWARD ${OTHER}`, "-A OUTPUT -j ACCEPT"),
    SECTION("filter", ":FORWARD DROP [0:0]", ":OUTPUT ACCEPT [0:0]"),
  ],
  ["-D by a place that is not there", SECTION("filter", `-A FORWARD ${OTHER}`, "-D FORWARD 2")],
  [
    "-D of what is not there fails the whole table",
    SECTION("filter", `-A FORWARD ${OTHER}`, `-D FORWARD ${RULE}`),
  ],
  [
    "one failing table leaves the one before it",
    SECTION("filter", `-A FORWARD ${OTHER}`) + SECTION("nat", "-D PREROUTING -j ACCEPT"),
  ],
  ["an unknown chain", SECTION("filter", `-A NOWHERE ${OTHER}`)],
  [
    "a chain with rules is not deleted",
    SECTION("filter", ":OWN - [0:0]", `-A OWN ${OTHER}`),
    SECTION("filter", "-X OWN"),
  ],
  [
    "a chain that is jumped to is not deleted",
    SECTION("filter", ":OWN - [0:0]", "-A FORWARD -j OWN"),
    SECTION("filter", "-X OWN"),
  ],
  [
    "a chain is emptied rule by rule and deleted in one section",
    SECTION("nat", ":OWN - [0:0]", `-A OWN ${OTHER.replace("DROP", "ACCEPT")}`),
    SECTION("nat", `-D OWN ${OTHER.replace("DROP", "ACCEPT")}`, "-X OWN"),
  ],
  [
    "a table twice in one text",
    SECTION("filter", `-A FORWARD ${OTHER}`) +
      SECTION("nat", "-A PREROUTING -j ACCEPT") +
      SECTION("filter", `-D FORWARD ${OTHER}`),
  ],
];

describe.each(["nft", "legacy"])("the fake and iptables-%s agree", (variant) => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await createLab();
  });
  afterAll(() => lab.close());

  it.each(INPUTS)("%s", async (_what, ...texts) => {
    for (const table of ["raw", "filter", "nat"])
      for (const verb of ["-F", "-X"]) await lab.exec([`iptables-${variant}`, "-t", table, verb]);
    await lab.exec([`iptables-${variant}`, "-P", "FORWARD", "ACCEPT"]);
    const fake = createFakeIptables();
    for (const input of texts) {
      const { exitCode } = await lab.exec([`iptables-${variant}-restore`, "--noflush"], {
        input,
        check: false,
      });
      expect(takes(() => fake.restore(input))).toBe(exitCode === 0);
    }
    const real = parseSave((await lab.exec([`iptables-${variant}-save`])).stdout);
    for (const table of ["filter", "nat"] as const)
      expect([...fake.read().tables[table]].filter(isUsed).toSorted(byName)).toEqual(
        [...real.tables[table]].filter(isUsed).toSorted(byName),
      );
    expect(fake.read().dropping).toEqual(real.dropping);
  });
});

type Chain = readonly [string, readonly string[]];

/** iptables-nft does not list the built-in chains of a table that was never used. */
function isUsed([name, rules]: Chain): boolean {
  return rules.length > 0 || name === "OWN";
}

function byName([a]: Chain, [b]: Chain): number {
  return a.localeCompare(b);
}

function takes(act: () => void): boolean {
  try {
    act();
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(Error);
    return false;
  }
}
