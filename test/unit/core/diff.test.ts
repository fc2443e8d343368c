import { expect, it } from "vitest";
import { diffRulesets } from "../../../src/core/diff.ts";
import { NOTHING_DESIRED } from "../../../src/core/ruleset.ts";
import type { Desired } from "../../../src/core/ruleset.ts";
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
