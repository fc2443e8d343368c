import { afterEach, beforeEach, describe, expect, it } from "vitest";
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
/** By how much the wall clock was set, in ms; sleeps do not notice. */
let clockShiftMs: number;
/** Called when the daemon has published a status, before it sleeps. */
let onPublished: () => void;
/** What was read and written since the array was last emptied. */
let calls: string[];

beforeEach(async () => {
  host = createFakeHost("guests: {web: {mac: 52:54:00:6c:3c:01, ports: [1122:22]}}");
  host.leases = [lease("192.168.122.11", MAC_A)];
  triggers = [];
  calls = [];
  clockShiftMs = 0;
  onPublished = () => undefined;
  loop = createLoop({
    host: listenTo({ ...host, probeNeighbours: answer, now: () => host.nowMs + clockShiftMs }),
    logger: { log: () => undefined, setLevel: () => undefined, problem: () => undefined },
    identity: { version: "0", pid: 1, startTicks: "1", config: "kvmnatd.yaml", startedAt: "" },
    previous: { targets: [], variants: new Set() },
    health: { changeDetectionProblem: () => undefined, externalProblems: () => [] },
    events: {
      onPortMap: () => undefined,
      onStatus: (now) => {
        status = now;
        onPublished();
      },
      onPass: (report) => triggers.push(report.triggers),
      onProgress: () => undefined,
    },
    heartbeatMs: undefined,
  });
  stop = new AbortController();
  ended = loop.run(stop.signal);
  // The first pass adds the rules, the second finds them as desired.
  await settle();
  loop.hint("resync");
  await settle();
  calls = [];
  triggers = [];
});

afterEach(async () => {
  stop.abort();
  await ended;
});

const settle = (): Promise<void> => host.advance(1000);

/** Every guest answers: one that does not would be probed again. */
async function answer(questions: readonly NeighbourProbe[]): Promise<ProbeResults> {
  return Promise.resolve(new Map(questions.map((question) => [networkAddressKey(question), MAC_A])));
}

const COSTLY: Readonly<Record<string, string>> = {
  readConfig: "config",
  readLeaseFiles: "leases",
  readRules: "rules",
  readLibvirtTables: "libvirt",
  restoreRules: "restore",
  readListeners: "ports in use",
  writeStatus: "status",
};

/** Records each call that reads or writes outside the process. */
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

it("the second pass for a file reports the triggers of the first", async () => {
  loop.hint("virbr0.status", "file");
  await settle();
  loop.hint("resync");
  await settle();
  expect(triggers).toEqual([["virbr0.status"], ["virbr0.status"], ["resync"]]);
});

it("the pass that puts a changed config in force reports the config as its trigger", async () => {
  host.config = "guests: {}";
  host.configChangedAtMs = host.nowMs;
  loop.hint("config", "file");
  await settle();
  expect(status.forwards).toEqual([]);
  // An editor may still be writing the file in the first; the third is the second look.
  expect(triggers).toEqual([["config"], ["config"], ["config"]]);
});

it("the pass for a config that is written until the last look reports the config as its trigger", async () => {
  loop.hint("config", "file");
  await host.advance(60);
  host.config = "guests: {}";
  host.configChangedAtMs = host.nowMs;
  await settle();
  expect(status.forwards).toEqual([]);
  expect(triggers).toEqual([["config"], ["config"], ["config"]]);
});

it("the pass for the end of a lease reports the timer as its trigger, also just after a file hint", async () => {
  host.leases = [lease("192.168.122.11", MAC_A, { expiresAtMs: host.nowMs + 3000 })];
  loop.hint("virbr0.status", "file");
  await host.advance(2900);
  triggers = [];
  loop.hint("address or link changed", "file");
  await settle();
  const changed = ["address or link changed"];
  expect(triggers.slice(0, 3)).toEqual([changed, ["timer"], changed]);
});

it("reads the ports in use after a resync that could read nothing", async () => {
  host.failing.set("readLinks", commandError("ip", "no memory"));
  loop.hint("resync", "resync");
  await host.advance(50);
  expect(calls).not.toContain("ports in use");
  host.failing.clear();
  await settle();
  expect(calls).toContain("ports in use");
});

describe("the end of linger", () => {
  beforeEach(async () => {
    host.config = "linger: 4s\nguests: {web: {ports: [1122:22]}}";
    host.domains = [{ domain: "web", bridge: "virbr0", macs: [MAC_A] }];
    loop.hint("config", "file");
    await settle();
    host.domains = [];
  });

  it.each(["before the daemon sleeps", "while the daemon sleeps"])(
    "comes in time when the clock is set back by a day %s",
    async (when) => {
      const setBack = (): void => void (clockShiftMs = -86_400_000);
      if (when === "before the daemon sleeps") onPublished = setBack;
      loop.hint("virbr0.macs", "file");
      await host.advance(200);
      expect(status.forwards).toMatchObject([{ state: "active", why: expect.stringMatching(/; lingers$/) }]);
      setBack();
      await host.advance(9000);
      expect(status.forwards).toMatchObject([{ state: "pending" }]);
    },
  );
});

it("keeps the forwards active while the config on disk has an error", async () => {
  host.config = "guests: [";
  loop.hint("config", "file");
  await settle();
  expect(status.problems.map(({ code }) => code)).toEqual(["config-invalid"]);
  expect(status.forwards.map(({ state }) => state)).toEqual(["active"]);
  host.failing.set("restoreRules", commandError("iptables-restore", "no"));
  host.rules.restore("*nat\n:KVMNATD-DNAT - [0:0]\nCOMMIT\n");
  loop.hint("resync");
  await settle();
  expect(status.forwards.map(({ state }) => state)).toEqual(["degraded"]);
});

describe("a hint of changed rules", () => {
  it("reads only the rules of that family and publishes nothing", async () => {
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(calls).toEqual(["rules4"]);
    loop.hint("ruleset changed", "rules", 6);
    await settle();
    expect(calls).toEqual(["rules4", "rules6"]);
    expect(triggers).toEqual([["ruleset changed"], ["ruleset changed"]]);
  });

  it("reads the rules of both families when both have changed", async () => {
    loop.hint("ruleset changed", "rules", 6);
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(calls.toSorted()).toEqual(["rules4", "rules6"]);
  });

  it("repairs and publishes what was changed, and the next pass reads everything", async () => {
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

  it("reports a program that keeps its rule before the jump until that rule is gone", async () => {
    const rival = "-o virbr0 -j REJECT";
    const states = (): readonly string[] => status.forwards.map(({ state }) => state);
    // After each repair the other program inserts its rule before the jump again.
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

  it("publishes an error, and the next pass reads everything", async () => {
    host.failing.set("readRules", commandError("iptables-save", "no memory"));
    loop.hint("ruleset changed", "rules", 4);
    await host.advance(200);
    expect(calls).toEqual(["rules4", "status"]);
    host.failing.clear();
    calls = [];
    await settle();
    expect(calls.toSorted()).toEqual(ALL);
  });
});

describe("a pass reads everything", () => {
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

  it("when the pass for a change of the links failed and only rules have changed since", async () => {
    host.failing.set("readLinks", commandError("ip", "no memory"));
    host.isUp = false;
    loop.hint("links changed");
    await host.advance(50);
    host.failing.clear();
    loop.hint("ruleset changed", "rules", 4);
    await settle();
    expect(status.problems.map(({ code }) => code)).toEqual(["waiting"]);
    expect(status.forwards.map(({ state }) => state)).toEqual(["pending"]);
  });

  it("when a lease has ended", async () => {
    host.leases = [lease("192.168.122.11", MAC_A, { expiresAtMs: host.nowMs + 3000 })];
    loop.hint("virbr0.status", "file");
    await settle();
    calls = [];
    // The hint and the end of the lease are due in one pass.
    await host.advance(1999);
    host.nowMs += 2;
    loop.hint("ruleset changed", "rules", 4);
    await host.advance(1);
    expect(calls).toContain("leases");
  });
});

describe("reload", () => {
  it("returns after a whole pass that started after the call", async () => {
    let reloaded: unknown;
    host.failing.set("readRules", commandError("iptables-save", "no memory"));
    void loop.reload().then((result) => (reloaded = result));
    expect(reloaded).toBeUndefined();
    await settle();
    expect(reloaded).toEqual({ configError: undefined, failures: ["iptables-save: no memory"] });
    expect(triggers[0]).toEqual(["reload"]);
  });

  it("returns the error that keeps the config from coming into force", async () => {
    host.config = "guests: [";
    const reload = loop.reload();
    await settle();
    expect(await reload).toMatchObject({
      configError: { diagnostics: [{ severity: "error" }] },
      failures: [],
    });
  });
});
