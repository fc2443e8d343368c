import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { diffRulesets } from "../../../src/core/diff.ts";
import { NOTHING_DESIRED } from "../../../src/core/ruleset.ts";
import type { Chains, Desired, Jump } from "../../../src/core/ruleset.ts";
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
])("a rule that moves costs two changes: %s", (_what, there) => {
  const lines = there.map((rule) => `-A KVMNATD-DNAT ${rule}\n`).join("");
  const kernel = createFakeIptables(`*nat\n:KVMNATD-DNAT - [0:0]\n${lines}COMMIT\n`);
  const diff = diffRulesets(want(RULES), kernel.read());
  expect(diff.map(({ kind }) => kind)).toEqual(["remove", "add"]);
});

const JUMP: Jump = {
  table: "filter",
  chain: "FORWARD",
  rule: '-m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD',
  beforeRejectsOf: ["virbr0"],
};

/** Where our jump would be put into FORWARD. */
function placeOfJump(chains: Chains): number | undefined {
  const tables = { raw: new Map(), nat: new Map(), filter: chains };
  const [added] = diffRulesets({ ...NOTHING_DESIRED, jumps: [JUMP] }, { tables });
  return added?.kind === "add" && "position" in added ? added.position : undefined;
}

it("chains that lead to each other in countless ways are each looked at once", { timeout: 20_000 }, () => {
  const names = Array.from({ length: 1000 }, (_, index) => `D${index}`);
  const chains = new Map(names.map((name, index) => [name, [`-j D${index + 1}`, `-j D${index + 1}`]]));
  expect(placeOfJump(new Map([...chains, ["FORWARD", ["-j ACCEPT", "-j D0"]]]))).toBe(3);
  chains.set("D1000", ["-j DROP"]);
  expect(placeOfJump(new Map([...chains, ["FORWARD", ["-j ACCEPT", "-j D0"]]]))).toBe(2);
});

it("a REJECT with another condition is no obstacle, also one that is a module alone", () => {
  const rules = ["-m socket -j REJECT", "-p tcp -m tcp -j DROP", '-m comment --comment "all" -j REJECT'];
  expect(placeOfJump(new Map([["FORWARD", rules]]))).toBe(3);
});

describe("the guard of 127.0.0.1", () => {
  const rule = '-d 127.0.0.0/8 -i virbr0 -m comment --comment "kvmnatd:@loopback-guard" -j DROP';
  const guard: Jump = { table: "raw", chain: "PREROUTING", rule, beforeAcceptsOf: "virbr0" };
  const kindsWith = (...before: readonly string[]): readonly string[] => {
    const tables = { nat: new Map(), filter: new Map(), raw: new Map([["PREROUTING", [...before, rule]]]) };
    return diffRulesets({ ...NOTHING_DESIRED, jumps: [guard] }, { tables }).map((change) =>
      change.kind === "add" && "position" in change ? `add at ${change.position}` : change.kind,
    );
  };

  it.each([
    "-p tcp -j ACCEPT",
    "-j RETURN",
    "-i vir+ -j ACCEPT",
    "! -i lan0 -j ACCEPT",
    "-j THEIRS",
    "-g THEIRS",
  ])("does not stay behind %s", (before) => {
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
  ])("may stand behind %s", (before) => {
    expect(kindsWith(before)).toEqual([]);
  });
});

it("chains that lead in circles are judged as every way through them says", () => {
  const names = ["A", "B", "C", "D"];
  const target = fc.constantFrom("ACCEPT", "DROP", "REJECT", "RETURN", ...names, ...names);
  const condition = fc.constantFrom("", "", "-o virbr0 ", "-o lan0 ", "-p tcp ");
  const rule = fc.tuple(condition, target).map(([when, to]) => `${when}-j ${to}`);
  const rules = fc.array(rule, { maxLength: 3 });
  fc.assert(
    fc.property(fc.record({ A: rules, B: rules, C: rules, D: rules, FORWARD: rules }), (graph) => {
      const chains: Chains = new Map(Object.entries(graph));
      const first = graph.FORWARD.findIndex((each) => rejectsNaively(each, chains, []));
      expect(placeOfJump(chains)).toBe((first === -1 ? graph.FORWARD.length : first) + 1);
    }),
  );
});

function rejectsNaively(rule: string, chains: Chains, path: readonly string[]): boolean {
  const target = /^(?:-o virbr0 )?-j (\w+)$/.exec(rule)?.[1];
  if (target === undefined || path.includes(target)) return false;
  if (target === "DROP" || target === "REJECT") return true;
  return chains.get(target)?.some((each) => rejectsNaively(each, chains, [...path, target])) ?? false;
}
