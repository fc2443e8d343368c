import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ProbeResults, NeighbourProbe } from "../../../src/identity/lookup.ts";
import { networkAddressKey } from "../../../src/leases/lease-index.ts";
import { createLoop } from "../../../src/daemon/loop.ts";
import type { Loop } from "../../../src/daemon/loop.ts";
import type { DaemonStatus } from "../../../src/status/status.ts";
import type { Host } from "../../../src/host-interface.ts";
import { lease, MAC_A } from "../../support/build-values.ts";
import { commandError, createFakeHost } from "../../support/fake-host.ts";
import type { FakeHost } from "../../support/fake-host.ts";

let host: FakeHost;
let loop: Loop;
let stop: AbortController;
let ended: Promise<void>;
let status: DaemonStatus;
let triggers: (readonly string[])[];
/** What was read and written since it was emptied last. */
let calls: string[];

beforeEach(async () => {
  vi.useFakeTimers();
  host = createFakeHost("guests: {web: {mac: 52:54:00:6c:3c:01, ports: [1122:22]}}");
  host.leases = [lease("192.168.122.11", MAC_A)];
  triggers = [];
  calls = [];
  loop = createLoop({
    host: listenTo({ ...host, now: () => host.nowMs + performance.now(), probeNeighbours: answer }),
    logger: { log: () => undefined, setLevel: () => undefined, problem: () => undefined },
    identity: { version: "0", pid: 1, startTicks: "1", config: "kvmnatd.yaml", startedAt: "" },
    previousTargets: [],
    usedVariants: new Set(),
    changeDetectionProblem: () => undefined,
    onPortMap: () => undefined,
    onStatus: (now) => (status = now),
    onPass: (report) => triggers.push(report.triggers),
    externalProblems: () => [],
    onProgress: () => undefined,
    heartbeatMs: undefined,
  });
  stop = new AbortController();
  ended = loop.run(stop.signal);
  // The first pass puts the rules there, the second finds all as it should be.
  await settle();
  loop.hint("resync");
  await settle();
  calls = [];
  triggers = [];
});

afterEach(async () => {
  stop.abort();
  await ended;
  vi.useRealTimers();
});

const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(1000);

/** It is not silent: that would be a reason to look again. */
async function answer(questions: readonly NeighbourProbe[]): Promise<ProbeResults> {
  return Promise.resolve(new Map(questions.map((question) => [networkAddressKey(question), MAC_A])));
}

const COSTLY: Readonly<Record<string, string>> = {
  readConfig: "config",
  readLeaseFiles: "leases",
  readRules: "rules",
  readLibvirtTables: "libvirt",
  restoreRules: "restore",
  writeStatus: "status",
};

/** Notes each call that costs something. */
function listenTo(real: Host): Host {
  return new Proxy(real, {
    get(target, property: keyof Host) {
      const value: unknown = target[property];
      const name = COSTLY[property];
      if (name === undefined || typeof value !== "function") return value;
      return (...args: unknown[]): unknown => {
        calls.push(name === "rules" ? `${name}${String(args[1])}` : name);
        return Reflect.apply(value, target, args);
      };
    },
  });
}

const ALL = ["config", "leases", "libvirt", "rules4", "rules6", "status"];

it("a second look says what it was that was to be looked at once more", async () => {
  loop.hint("virbr0.status", "file");
  await settle();
  loop.hint("resync");
  await settle();
  expect(triggers).toEqual([["virbr0.status"], ["virbr0.status"], ["resync"]]);
});

it("is calm while the rules are as they should be, whatever is wrong with the config on disk", async () => {
  expect(loop.isInSync()).toBe(true);
  host.config = "guests: [";
  loop.hint("config", "file");
  expect(loop.isInSync(), "until the pass").toBe(true);
  await settle();
  expect(status.problems.map(({ code }) => code)).toEqual(["config-invalid"]);
  expect(loop.isInSync()).toBe(true);
  host.failing.set("restoreRules", commandError("iptables-restore", "no"));
  host.rules.restore("*nat\n:KVMNATD-DNAT - [0:0]\nCOMMIT\n");
  loop.hint("resync");
  await settle();
  expect(loop.isInSync()).toBe(false);
});

describe("where a neighbour's rules have changed and nothing else", () => {
  it("the rules of that family are looked at, and nothing is told", async () => {
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(calls).toEqual(["rules4"]);
    loop.hint("ruleset changed", "rules", 6);
    await settle();
    expect(calls).toEqual(["rules4", "rules6"]);
    expect(triggers).toEqual([["ruleset changed"], ["ruleset changed"]]);
  });

  it("those of both are, when both have changed", async () => {
    loop.hint("ruleset changed", "rules", 6);
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(calls.toSorted()).toEqual(["rules4", "rules6"]);
  });

  it("what they did to ours is put right and told, and everything is looked at next", async () => {
    host.rules.restore("*nat\n:KVMNATD-DNAT - [0:0]\nCOMMIT\n");
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(calls).toEqual(["rules4", "restore", "rules4", "status"]);
    expect(host.rules.save()).toContain("--to-destination 192.168.122.11:22");
    calls = [];
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(calls.toSorted()).toEqual(ALL);
  });

  it("a program that had won is told of until it has gone, and no longer", async () => {
    const rival = "-o virbr0 -j REJECT";
    const states = (): readonly string[] => status.forwards.map(({ state }) => state);
    // Whenever our jump is first, theirs goes before it.
    for (let repairs = 0; repairs <= 3; repairs += 1) {
      host.rules.restore(`*filter\n-I FORWARD 1 ${rival}\nCOMMIT\n`);
      loop.hint("ruleset changed", "rules", 4);
      await settle();
    }
    expect(states()).toEqual(["degraded"]);
    expect(status.problems.map(({ code }) => code)).toEqual(["jump-overridden"]);
    const theirs = host.rules.save().match(/^-A FORWARD -o virbr0 -j REJECT$/gm) ?? [];
    host.rules.restore(`*filter\n${theirs.map(() => `-D FORWARD ${rival}\n`).join("")}COMMIT\n`);
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(calls.slice(-2)).toEqual(["rules4", "status"]);
    expect(states()).toEqual(["active"]);
    expect(status.problems).toEqual([]);
  });

  it("a fault is told, and everything is looked at again", async () => {
    host.failing.set("readRules", commandError("iptables-save", "no memory"));
    loop.hint("ruleset changed", "rules", 4);
    await vi.advanceTimersByTimeAsync(200);
    expect(calls).toEqual(["rules4", "status"]);
    host.failing.clear();
    calls = [];
    await settle();
    expect(calls.toSorted()).toEqual(ALL);
  });
});

describe("everything is looked at", () => {
  it("when other rules may have changed as well", async () => {
    loop.hint("ruleset changed", "rules", 4);
    loop.hint("ruleset changed", "rules");
    await settle();
    expect(calls.toSorted()).toEqual(ALL);
  });

  it("when a lease file has changed as well, then and once more", async () => {
    loop.hint("virbr0.status", "file");
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(calls.filter((call) => call === "leases")).toHaveLength(2);
  });

  it("when a lease has ended", async () => {
    host.leases = [lease("192.168.122.11", MAC_A, { expiresAtMs: host.nowMs + performance.now() + 3000 })];
    loop.hint("virbr0.status", "file");
    await settle();
    calls = [];
    // In one pass with the end of the lease.
    setTimeout(() => loop.hint("ruleset changed", "rules", 4), 2000);
    await vi.advanceTimersByTimeAsync(2000);
    expect(calls).toContain("leases");
  });
});
