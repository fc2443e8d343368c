import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { diffRulesets } from "../../../src/rules/diff.ts";
import { NOTHING_DESIRED } from "../../../src/rules/ruleset.ts";
import type { Chains, Desired, Jump } from "../../../src/rules/ruleset.ts";
import { createFakeIptables } from "../../support/fake-iptables.ts";

const RULES = Array.from({ length: 1000 }, (_, index) => `-p tcp -m tcp --dport ${index + 1} -j ACCEPT`);

function want(rules: readonly string[]): Desired {
  return {
    ...NOTHING_DESIRED,
    chains: { raw: new Map(), filter: new Map(), nat: new Map([["KVMNATD-DNAT", rules]]) },
  };
}

it.each([
  ["the first to the end", [...RULES.slice(1), ...RULES.slice(0, 1)]],
  ["the last to the front", [...RULES.slice(-1), ...RULES.slice(0, -1)]],
  [
    "one in the middle",
    [...RULES.slice(0, 300), ...RULES.slice(301, 800), ...RULES.slice(300, 301), ...RULES.slice(800)],
  ],
])("moves a rule by two changes: %s", (_what, there) => {
  const lines = there.map((rule) => `-A KVMNATD-DNAT ${rule}\n`).join("");
  const kernel = createFakeIptables(`*nat\n:KVMNATD-DNAT - [0:0]\n${lines}COMMIT\n`);
  const diff = diffRulesets(want(RULES), kernel.read());
  expect(diff.map(({ kind }) => kind)).toEqual(["remove", "add"]);
});

const JUMP: Jump = {
  table: "filter",
  chain: "FORWARD",
  rule: '-m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD',
  mustPrecedeRejectsFor: ["virbr0"],
  mustPrecedeAcceptsFor: undefined,
};

const GUARD = { mustPrecedeRejectsFor: undefined, mustPrecedeAcceptsFor: "virbr0" };

/** Where our jump would be put into FORWARD. */
function placeOfJump(chains: Chains, dropping: ReadonlySet<string> = new Set()): number | undefined {
  const tables = { raw: new Map(), nat: new Map(), filter: chains };
  const [added] = diffRulesets({ ...NOTHING_DESIRED, jumps: [JUMP] }, { tables, dropping });
  return added?.kind === "add" && "position" in added ? added.position : undefined;
}

it("walks each chain once when chains jump to each other in countless ways", { timeout: 20_000 }, () => {
  const names = Array.from({ length: 1000 }, (_, index) => `D${index}`);
  const chains = new Map(names.map((name, index) => [name, [`-j D${index + 1}`, `-j D${index + 1}`]]));
  expect(placeOfJump(new Map([...chains, ["FORWARD", ["-j ACCEPT", "-j D0"]]]))).toBe(3);
  chains.set("D1000", ["-j DROP"]);
  expect(placeOfJump(new Map([...chains, ["FORWARD", ["-j ACCEPT", "-j D0"]]]))).toBe(2);
});

it("ignores a REJECT with another condition, also when the condition is only a module", () => {
  const rules = ["-m socket -j REJECT", "-p tcp -m tcp -j DROP", '-m comment --comment "all" -j REJECT'];
  expect(placeOfJump(new Map([["FORWARD", rules]]))).toBe(3);
});

describe("the guard of 127.0.0.1", () => {
  const rule = '-d 127.0.0.0/8 -i virbr0 -m comment --comment "kvmnatd:@loopback-guard" -j DROP';
  const guard: Jump = { ...JUMP, table: "raw", chain: "PREROUTING", rule, ...GUARD };
  const kindsWith = (...before: readonly string[]): readonly string[] => {
    const tables = { nat: new Map(), filter: new Map(), raw: new Map([["PREROUTING", [...before, rule]]]) };
    return diffRulesets({ ...NOTHING_DESIRED, jumps: [guard] }, { tables, dropping: new Set() }).map(
      (change) => (change.kind === "add" && "position" in change ? `add at ${change.position}` : change.kind),
    );
  };

  it.each([
    "-p tcp -j ACCEPT",
    "-j RETURN",
    "-i vir+ -j ACCEPT",
    "! -i lan0 -j ACCEPT",
    "-j THEIRS",
    "-g THEIRS",
  ])("moves before %s", (before) => {
    expect(kindsWith(before)).toEqual(["remove", "add at 1"]);
  });

  it.each([
    "-d 172.17.0.2/32 ! -i docker0 -j DROP",
    "-i lan0 -j ACCEPT",
    "! -i virbr0 -j ACCEPT",
    "-i eth+ -j THEIRS",
    "-p udp -j NOTRACK",
    "-p tcp -j CT --helper ftp",
    "-m recent --set --name x",
    rule.replace("virbr0", "virbr1").replace("loopback-guard", "other"),
  ])("stays behind %s", (before) => {
    expect(kindsWith(before)).toEqual([]);
  });
});

describe("a rule that rejects every new connection", () => {
  it.each<[string, Record<string, readonly string[]>, boolean]>([
    ["a drop", { FORWARD: ["-j DROP"] }, true],
    ["a drop of some", { FORWARD: ["-p tcp -j DROP"] }, false],
    ["a drop for all bridges of libvirt's", { FORWARD: ["-o virbr+ -j DROP"] }, true],
    ["a drop for all but one link", { FORWARD: ["! -o lan0 -j DROP"] }, true],
    ["a drop for all but the bridge", { FORWARD: ["! -o virbr0 -j DROP"] }, false],
    ["a chain that drops", { FORWARD: ["-j A"], A: ["-o virbr0 -j DROP"] }, true],
    ["a drop behind a return", { FORWARD: ["-j A"], A: ["-j RETURN", "-j DROP"] }, false],
    [
      "a drop behind an accept for the bridge",
      { FORWARD: ["-j A"], A: ["-o virbr0 -j ACCEPT", "-j DROP"] },
      false,
    ],
    ["a drop behind an accept for some", { FORWARD: ["-j A"], A: ["-p tcp -j ACCEPT", "-j DROP"] }, true],
    ["a return", { FORWARD: ["-j RETURN"] }, false],
    ["a chain that is gone to", { FORWARD: ["-g A"], A: [] }, false],
  ])("%s", (_what, graph, expected) => {
    expect(placeOfJump(new Map(Object.entries(graph)))).toBe(expected ? 1 : 2);
  });

  it.each<[string, Record<string, readonly string[]>, boolean]>([
    ["a return", { FORWARD: ["-j RETURN"] }, true],
    ["a return for the bridge", { FORWARD: ["-o virbr0 -j RETURN"] }, true],
    ["a return of some", { FORWARD: ["-p tcp -j RETURN"] }, false],
    ["a chain that is gone to", { FORWARD: ["-g A"], A: [] }, true],
    ["a chain that is gone to, and accepts", { FORWARD: ["-g A"], A: ["-j ACCEPT"] }, false],
    ["a chain that returns", { FORWARD: ["-j A"], A: ["-j RETURN"] }, false],
    ["a chain that goes to one that returns", { FORWARD: ["-j A"], A: ["-g B", "-j DROP"], B: [] }, false],
  ])("with the policy DROP: %s", (_what, graph, expected) => {
    expect(placeOfJump(new Map(Object.entries(graph)), new Set(["filter FORWARD"]))).toBe(expected ? 1 : 2);
  });

  it("is found exactly when a packet that follows the rules is rejected", () => {
    const target = (...chains: readonly string[]): fc.Arbitrary<string> =>
      fc.constantFrom(
        "-j ACCEPT",
        "-j DROP",
        "-j REJECT",
        "-j RETURN",
        "-j LOG",
        ...chains.flatMap((to) => [`-j ${to}`, `-g ${to}`, `-j ${to}`]),
      );
    const condition = fc.constantFrom(
      "",
      "",
      "-o virbr0 ",
      "-o virbr+ ",
      "! -o lan0 ",
      "-o lan0 ",
      "! -o virbr0 ",
      "-p tcp ",
    );
    const rules = (...chains: readonly string[]): fc.Arbitrary<string[]> =>
      fc.array(
        fc.tuple(condition, target(...chains)).map(([when, to]) => when + to),
        { maxLength: 4 },
      );
    const graphs = fc.record({
      A: rules(),
      B: rules("A"),
      C: rules("A", "B"),
      FORWARD: rules("A", "B", "C"),
    });
    fc.assert(
      fc.property(graphs, fc.boolean(), (graph, drops) => {
        const chains: Chains = new Map(Object.entries(graph));
        const first = graph.FORWARD.findIndex((each) => {
          const fate = lead([each], chains);
          return fate === "drop" || (drops && fate === "return");
        });
        const expected = (first === -1 ? graph.FORWARD.length : first) + 1;
        expect(placeOfJump(chains, new Set(drops ? ["filter FORWARD"] : []))).toBe(expected);
      }),
      { numRuns: 1000 },
    );
  });

  it("is found when chains jump in circles", () => {
    const graph = { FORWARD: ["-j A", "-j DROP"], A: ["-j B"], B: ["-j A", "-g B"] };
    expect(placeOfJump(new Map(Object.entries(graph)))).toBe(2);
  });
});

/** A new connection to virbr0 that is neither tcp nor anything else: where it ends; undefined: it goes on. */
function lead(rules: readonly string[], chains: Chains): "drop" | "accept" | "return" | undefined {
  for (const rule of rules) {
    const [, how, target = ""] = /^(?:-o virbr[0+] |! -o lan0 )?-([jg]) (\w+)$/.exec(rule) ?? [];
    if (target === "DROP" || target === "REJECT") return "drop";
    if (target === "ACCEPT") return "accept";
    if (target === "RETURN") return "return";
    const chain = chains.get(target);
    if (chain === undefined) continue;
    const fate = lead(chain, chains);
    if (fate === "drop" || fate === "accept") return fate;
    if (how === "g") return "return";
  }
  return undefined;
}
