import { beforeEach, describe, expect, it } from "vitest";
import { FIRST_PASS_STATE, reconcile } from "../../../src/daemon/pass.ts";
import type { PassState, PassResult } from "../../../src/daemon/pass.ts";
import { finishCleaning, startFlowState } from "../../../src/daemon/remove-stale-flows.ts";
import type { StaleFlows } from "../../../src/conntrack/stale-flows.ts";
import { ip, lease, MAC_A } from "../../support/build-values.ts";
import { commandError, createFakeHost } from "../../support/fake-host.ts";
import type { FakeHost } from "../../support/fake-host.ts";

const WEB = "192.168.122.11";
const MOVED = "192.168.122.12";
const CLIENT = "198.51.100.2";
let host: FakeHost;
let memory: PassState;

beforeEach(() => {
  memory = FIRST_PASS_STATE;
  host = createFakeHost("guests:\n  web: {ports: [1122:22]}\n");
  host.leases = [lease(WEB, MAC_A)];
  host.domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A] }];
});

async function pass(): Promise<PassResult> {
  const result = await reconcile(host, memory, { number: 1, trigger: "test", lingers: true });
  ({ memory } = result);
  return result;
}

const codes = ({ problems }: PassResult): readonly string[] => problems.map(({ code }) => code);
const removals = ({ entries }: PassResult): readonly string[] =>
  entries.flatMap(({ event, message }) => (event === "conntrack-entries-removed" ? [message] : []));

/** When the next check is due; undefined: none is. */
function nextCheckMs(): number | undefined {
  const times = [...(memory.flows.pending?.values() ?? [])].flat().map(({ dueAtMs }) => dueAtMs);
  return times.length === 0 ? undefined : Math.min(...times);
}

/** A client's connection to port 1122, which the rules translate to 22. */
const translated = (source: string, answerer: string): string =>
  `tcp      6 29 ESTABLISHED src=${source} dst=198.51.100.1 sport=4 dport=1122 src=${answerer} dst=${source} sport=22 dport=4 use=1`;
/** A client's connection to port 8080, which is the guest's port, too: late replies can reach the client. */
const straight = (source: string): string =>
  `tcp      6 29 ESTABLISHED src=${source} dst=198.51.100.1 sport=4 dport=8080 src=${WEB} dst=${source} sport=8080 dport=4 use=1`;
/** The entry that a late reply to that client creates. */
const replied = (client: string): string =>
  `tcp      6 29 ESTABLISHED src=${WEB} dst=${client} sport=8080 dport=4 src=${client} dst=198.51.100.1 sport=4 dport=8080 use=1`;

/** Removes from the fake's table what conntrack would remove if one client at a time is selected. @param costMs of a command */
function removeBySource(costMs = 0): void {
  host.removeFlows = (stale: StaleFlows) => {
    host.nowMs += costMs;
    const before = host.flows.length;
    host.flows = host.flows.filter((each) => !each.includes(` src=${stale.flow.source} `));
    host.removed.push(stale);
    return Promise.resolve(before - host.flows.length);
  };
}

it("checks again after ten seconds when conntrack failed", async () => {
  await pass();
  host.flows = [translated(CLIENT, WEB)];
  host.leases = [lease(MOVED, MAC_A)];
  host.failing.set("listFlows", commandError("conntrack", "busy"));
  const failed = await pass();
  expect(codes(failed)).toEqual(["conntrack-failed"]);
  expect(failed.wakeAtMs).toBeLessThanOrEqual(host.nowMs + 10_000);
  expect(nextCheckMs()).toBe(host.nowMs + 10_000);
  host.failing.clear();
  host.nowMs += 10_000;
  await pass();
  expect(host.removed).toMatchObject([{ flow: { replySource: WEB } }]);
  host.nowMs += 10_000;
  await pass();
  expect(host.removed).toHaveLength(1);
});

it("removes connections past a new forward when only the next pass can verify its rule", async () => {
  const { config } = host;
  host.config = "guests: {}\n";
  await pass();
  host.config = config;
  host.flows = [translated(CLIENT, "198.51.100.1").replace("ESTABLISHED", "SYN_SENT")];
  const { restoreRules } = { restoreRules: host.restoreRules.bind(host) };
  host.restoreRules = async (...args) => {
    await restoreRules(...args);
    host.failing.set("readRules", commandError("iptables-save", "killed"));
  };
  await pass();
  expect(host.removed).toEqual([]);
  host.failing.clear();
  await pass();
  expect(host.removed).toMatchObject([{ flow: { port: 1122 } }]);
});

it("keeps the problem open until the check succeeds", async () => {
  host.failing.set("listFlows", commandError("conntrack", "busy"));
  expect(codes(await pass())).toEqual(["conntrack-failed"]);
  expect(codes(await pass())).toEqual(["conntrack-failed"]);
  host.failing.clear();
  host.nowMs += 10_000;
  expect(codes(await pass())).toEqual([]);
});

it("finds at start, from its own changes, where a port led that is no longer published", async () => {
  host.config = "guests:\n  web: {ports: [1122:22, 1180:80]}\n";
  await pass();
  memory = FIRST_PASS_STATE;
  host.flows = [translated(CLIENT, WEB)];
  host.config = "guests:\n  web: {ports: [1180:80]}\n";
  await pass();
  expect(host.removed).toMatchObject([{ flow: { port: 1122, replySource: WEB } }]);
});

it("finds it also for the last port, with which the jumps go", async () => {
  await pass();
  memory = FIRST_PASS_STATE;
  host.flows = [translated(CLIENT, WEB)];
  host.config = "guests: {}\n";
  await pass();
  expect(host.removed).toMatchObject([{ flow: { port: 1122, replySource: WEB } }]);
});

it("checks again after a start where another daemon may have removed entries before", async () => {
  await pass();
  memory = {
    ...FIRST_PASS_STATE,
    flows: startFlowState([
      { family: 4, protocol: "tcp", range: { first: 1122, last: 1122 }, address: ip(WEB) },
    ]),
  };
  await pass();
  expect(nextCheckMs()).toBe(host.nowMs + 1000);
  memory = FIRST_PASS_STATE;
  await pass();
  expect(nextCheckMs()).toBeUndefined();
});

it("removes at most twenty connections per pass, and applies rules in between", async () => {
  host.config = "guests:\n  web: {ports: [1122:22], allow: [198.51.100.0/24, 203.0.113.0/24]}\n";
  await pass();
  const stale = Array.from({ length: 50 }, (_, index) => translated(`198.51.100.${index + 2}`, WEB));
  // One client that is still admitted keeps them from being removed by one command.
  host.flows = [...stale, translated("203.0.113.5", WEB)];
  host.config = "guests:\n  web: {ports: [1122:22], allow: [203.0.113.0/24]}\n";
  removeBySource();
  expect((await pass()).wakeAtMs).toBe(host.nowMs);
  expect(host.removed).toHaveLength(20);
  expect((await pass()).wakeAtMs).toBe(host.nowMs);
  await pass();
  expect(nextCheckMs()).toBeUndefined();
  expect(host.removed).toHaveLength(50);
  expect(host.flows).toEqual([translated("203.0.113.5", WEB)]);
});

describe("where a late reply can reach the client", () => {
  beforeEach(async () => {
    host.config = "guests:\n  web: {ports: [8080:8080]}\n";
    await pass();
    host.config = "guests:\n  web: {ports: [8080:8080], allow: [203.0.113.0/24]}\n";
  });

  it("checks 1, 4 and 15 s after the removal, and repeats until the client's packet is first", async () => {
    host.flows = [straight(CLIENT)];
    const began = host.nowMs;
    await pass();
    expect(host.removed).toMatchObject([{ flow: { initiator: "client" } }]);
    host.flows = [replied(CLIENT)];
    // Three more replies come first, then a packet of the client.
    const counts = [1, 1, 1, 0];
    host.removeFlows = (stale) => Promise.resolve(host.removed.push(stale)).then(() => counts.shift() ?? 0);
    const checks: number[] = [];
    const messages: string[] = [];
    for (let next = nextCheckMs(); next !== undefined; next = nextCheckMs()) {
      host.nowMs = next;
      checks.push(host.nowMs - began);
      messages.push(...removals(await pass()));
      host.flows = [];
    }
    expect(checks).toEqual([1000, 4000, 15_000]);
    expect(host.removed.slice(1).map(({ flow }) => flow.initiator)).toEqual(Array(4).fill("server"));
    expect(messages).toEqual([
      `web: 3 conntrack entries of tcp port 8080 at 198.51.100.1 removed that began by a late reply of ${WEB}`,
    ]);
  });

  it("does not list connections between the checks", async () => {
    host.flows = [straight(CLIENT)];
    await pass();
    host.failing.set("listFlows", commandError("conntrack", "busy"));
    host.nowMs += 999;
    expect(codes(await pass())).toEqual([]);
    host.nowMs += 1;
    expect(codes(await pass())).toEqual(["conntrack-failed"]);
  });

  it("ends a minute later, however often a guest creates the entries again", async () => {
    // More clients than one pass removes.
    const many = Array.from({ length: 150 }, (_, index) => `198.51.100.${index + 2}`);
    host.flows = [...many, "203.0.113.5"].map(straight);
    removeBySource();
    do await pass();
    while (nextCheckMs() === host.nowMs);
    expect(host.removed).toHaveLength(many.length);
    host.removeFlows = (stale) => {
      host.nowMs += 10;
      return Promise.resolve(host.removed.push(stale)).then(() => 1);
    };
    host.flows = [...many, "203.0.113.5"].map(replied);
    const began = host.nowMs;
    let passes = 0;
    for (let next = nextCheckMs(); next !== undefined && passes < 1000; next = nextCheckMs()) {
      // A guest's entries never make a pass follow at once.
      expect(next - host.nowMs).toBeGreaterThan(500);
      host.nowMs = next;
      await pass();
      passes += 1;
    }
    expect(host.nowMs - began).toBeGreaterThan(15_000);
    expect(host.nowMs - began).toBeLessThanOrEqual(61_000);
    expect(passes).toBeLessThanOrEqual(61);
  });

  it("takes at most a fifth of a second per pass for a guest that replies for ever", async () => {
    host.flows = [straight(CLIENT)];
    await pass();
    host.flows = [replied(CLIENT)];
    host.removeFlows = () => {
      host.nowMs += 60;
      return Promise.resolve(1);
    };
    host.nowMs += 1000;
    const began = host.nowMs;
    await pass();
    expect(host.nowMs - began).toBeLessThan(300);
  });

  describe("and each client needs a command of its own", () => {
    const SOURCES = Array.from({ length: 50 }, (_, index) => `198.51.100.${index + 2}`);

    beforeEach(() => {
      // One client that is still admitted keeps them from being removed by one command.
      host.flows = [...SOURCES, "203.0.113.5"].map(straight);
    });

    it("logs and rechecks what was removed before a failure", async () => {
      let calls = 0;
      host.removeFlows = (stale) => {
        calls += 1;
        if (calls === 4) return Promise.reject(commandError("conntrack", "busy"));
        return Promise.resolve(host.removed.push(stale)).then(() => 1);
      };
      const result = await pass();
      expect(codes(result)).toEqual(["conntrack-failed"]);
      expect(removals(result)).toHaveLength(3);
      expect(result.wakeAtMs).toBeLessThanOrEqual(host.nowMs + 1000);
      expect(memory.flows.pending?.get(4)?.map(({ dueAtMs }) => dueAtMs - host.nowMs)).toEqual([
        10_000, 1000,
      ]);
    });

    it("a one-shot command goes on until all are removed", async () => {
      removeBySource();
      const { view } = await pass();
      expect(host.flows).toHaveLength(31);
      const began = host.nowMs;
      const { entries } = await finishCleaning(host, view, memory.flows);
      expect(entries).toHaveLength(30);
      expect(host.flows).toEqual([straight("203.0.113.5")]);
      expect(host.nowMs - began).toBeLessThanOrEqual(5000);
    });

    it.each([
      ["forward", 3_600_000],
      ["back", -3_600_000],
    ])("a one-shot command removes all within five seconds when the clock is set %s", async (_, byMs) => {
      removeBySource();
      const { view } = await pass();
      host.listFlows = (family) => {
        host.now = () => host.nowMs + byMs;
        return Promise.resolve(family === 4 ? host.flows : []);
      };
      const began = host.monotonicMs();
      await finishCleaning(host, view, memory.flows);
      expect(host.flows).toEqual([straight("203.0.113.5")]);
      expect(host.monotonicMs() - began).toBeLessThanOrEqual(5000);
    });

    it("removes for a fifth of a second per pass, and forgets none", async () => {
      removeBySource(120);
      const began = host.nowMs;
      await pass();
      expect(host.nowMs - began).toBeLessThanOrEqual(240);
      expect(host.removed.length).toBeLessThanOrEqual(2);
      expect(nextCheckMs()).toBe(host.nowMs);
      for (let passes = 0; passes < 49 && nextCheckMs() === host.nowMs; passes += 1) await pass();
      expect(host.flows).toEqual([straight("203.0.113.5")]);
    });
  });
});

it("does not check again where no late reply can reach the client", async () => {
  await pass();
  host.flows = [translated(CLIENT, WEB)];
  host.leases = [lease(MOVED, MAC_A)];
  await pass();
  expect(host.removed).toHaveLength(1);
  expect([...(memory.flows.pending?.values() ?? [])].flat()).toEqual([]);
});
