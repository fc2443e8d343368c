import { beforeEach, describe, expect, it } from "vitest";
import { leaveRules } from "../../../src/cli/leave-rules.ts";
import { removeOwned } from "../../../src/cli/teardown.ts";
import type { Family } from "../../../src/net/address.ts";
import type { LogEntry } from "../../../src/log/audit-entries.ts";
import type { Iptables } from "../../../src/host-interface.ts";
import type { Variant } from "../../../src/rules/ruleset.ts";
import { commandError, createFakeHost } from "../../support/fake-host.ts";
import type { FakeHost } from "../../support/fake-host.ts";
import { createFakeIptables } from "../../support/fake-iptables.ts";
import type { FakeIptables } from "../../support/fake-iptables.ts";

const OWNED =
  '*nat\n:KVMNATD-DNAT - [0:0]\n-A PREROUTING -m comment --comment "kvmnatd:@jump" -j KVMNATD-DNAT\n';
const LEGACY: Iptables = { variant: "legacy", infix: "-legacy" };
let host: FakeHost;
/** The rules by variant and family. */
let rules: ReadonlyMap<string, FakeIptables>;
/** Variant and family whose next read-back fails. */
let unreadable: string | undefined;
let removed: string[];

const rulesetKey = ({ variant }: Iptables, family: Family): string => `${variant} ${family}`;

beforeEach(() => {
  host = createFakeHost("guests: {}\n");
  const keys = ["nft 4", "legacy 4", "nft 6", "legacy 6"];
  rules = new Map(keys.map((key) => [key, createFakeIptables(`${OWNED}COMMIT\n`)]));
  unreadable = undefined;
  removed = [];
  const written = new Set<string>();
  host.otherIptables = () => Promise.resolve(LEGACY);
  host.readRules = async (tool, family) => {
    const key = rulesetKey(tool, family);
    if (key !== unreadable || !written.has(key)) return Promise.resolve(rulesOf(key).read());
    unreadable = undefined;
    throw commandError("iptables-save", "killed");
  };
  host.restoreRules = (tool, family, { input }) => {
    written.add(rulesetKey(tool, family));
    return Promise.resolve(rulesOf(rulesetKey(tool, family)).restore(input));
  };
});

function rulesOf(key: string): FakeIptables {
  const found = rules.get(key);
  if (found === undefined) throw new Error(`no rules of ${key}`);
  return found;
}

const attempt = (known: readonly Variant[] = []): ReturnType<typeof removeOwned> =>
  removeOwned(host, new Set(known), ({ message }) => removed.push(message));
const rulesLeft = (): readonly string[] =>
  [...rules].flatMap(([key, each]) => (each.save().includes("kvmnatd") ? [key] : []));

describe("removeOwned", () => {
  it("removes the rules of both families and variants", async () => {
    expect(await attempt()).toEqual({ count: 8, failures: [], unverified: [] });
    expect(rulesLeft()).toEqual([]);
    expect(removed).toHaveLength(8);
  });

  it("removes the other rules when one ruleset cannot be read back", async () => {
    unreadable = "nft 4";
    const { failures } = await attempt();
    expect(failures.map(({ message }) => message)).toEqual(["iptables-save: killed"]);
    expect(rulesLeft()).toEqual([]);
  });

  it("reports removals that could not be read back as soon as they can be read", async () => {
    unreadable = "nft 4";
    const logger = {
      log: ({ message }: LogEntry) => removed.push(message),
      setLevel: () => undefined,
      problem: () => undefined,
    };
    expect(await leaveRules(host, logger, "remove", new Set())).toBe("rules removed");
    expect(removed).toHaveLength(1 + 8);
    expect(removed.filter((message) => message.startsWith("- iptables "))).toHaveLength(4);
  });

  it("closes 127.0.0.1 and reports one failure when the variant in use is unknown", async () => {
    const localnet = "net/ipv4/conf/virbr0/route_localnet";
    host.sysctls.set(localnet, "2");
    host.chooseIptables = () => Promise.reject(commandError("iptables", "killed"));
    const { count, failures } = await attempt();
    expect(failures.map(({ message }) => message)).toEqual(["iptables: killed"]);
    expect([count, host.sysctls.get(localnet)]).toEqual([1, "0"]);
  });
});
