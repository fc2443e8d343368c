import { beforeEach, describe, expect, it } from "vitest";
import { applyRuleset } from "../../../src/daemon/apply.ts";
import { createRulesetReader } from "../../../src/daemon/read-rulesets.ts";
import type { BackendRuleset } from "../../../src/daemon/read-rulesets.ts";
import { parseLibvirtTable } from "../../../src/rules/libvirt-table.ts";
import { NOTHING_DESIRED } from "../../../src/rules/ruleset.ts";
import type { Desired } from "../../../src/rules/ruleset.ts";
import { commandError, createFakeHost } from "../../support/fake-host.ts";
import type { FakeHost } from "../../support/fake-host.ts";

const TABLE = parseLibvirtTable(
  "table ip libvirt_network {\n\tchain forward { # handle 1\n\t\tjump guest_input # handle 2\n\t}\n}\n",
);
const DESIRED: Desired = {
  ...NOTHING_DESIRED,
  chains: { raw: new Map(), filter: new Map(), nat: new Map([["KVMNATD-DNAT", ["-p tcp -j ACCEPT"]]]) },
  libvirt: ['oifname "virbr0" counter accept'],
};
let host: FakeHost;

beforeEach(() => {
  host = createFakeHost("guests: {}\n");
  host.readLibvirtTables = () => Promise.resolve(new Map([[4, TABLE]]));
});

async function read(): Promise<BackendRuleset> {
  const reader = createRulesetReader(host, { variant: "nft", infix: "" }, new Set());
  const [ipv4] = await reader.readAll();
  const [used] = ipv4?.backends ?? [];
  if (used === undefined) throw new Error("the rules of IPv4 were not read");
  return used;
}

describe("when nft and iptables-restore fail in one pass", () => {
  it("reports both failures", async () => {
    host.runNft = () => Promise.reject(commandError("nft", "not permitted"));
    host.failing.set("restoreRules", commandError("iptables-restore", "lock held"));
    const { errors, applied } = await applyRuleset(host, await read(), DESIRED);
    expect(errors.map(({ message }) => message)).toEqual([
      "nft: not permitted",
      expect.stringContaining("iptables-restore: lock held; left undone: "),
    ]);
    expect(applied).toEqual([]);
  });

  it("tries the rejected restore again, whichever failed first", async () => {
    let restores = 0;
    const { restoreRules } = { restoreRules: host.restoreRules.bind(host) };
    host.runNft = () => Promise.reject(commandError("nft", "not permitted"));
    host.restoreRules = async (tool, family, script) => {
      restores += 1;
      if (restores === 1) throw commandError("iptables-restore", "another program wrote at the same time");
      await restoreRules(tool, family, script);
    };
    const { errors } = await applyRuleset(host, await read(), DESIRED);
    expect(errors.map(({ message }) => message)).toEqual(["nft: not permitted"]);
    expect(host.rules.read().tables.nat.get("KVMNATD-DNAT")).toEqual(["-p tcp -j ACCEPT"]);
  });
});

it("counts the rules of each script where it writes the script", async () => {
  const counts: number[] = [];
  const { restoreRules } = { restoreRules: host.restoreRules.bind(host) };
  host.runNft = ({ ruleCount }) => Promise.resolve(void counts.push(ruleCount));
  host.restoreRules = async (tool, family, script) => {
    counts.push(script.ruleCount);
    await restoreRules(tool, family, script);
  };
  await applyRuleset(host, await read(), DESIRED);
  // libvirt's table: the accept and the jump; nat: the one rule.
  expect(counts).toEqual([2, 1]);
});
