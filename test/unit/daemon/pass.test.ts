import { beforeEach, describe, expect, it } from "vitest";
import { describeDiagnostic } from "../../../src/diagnostic.ts";
import { removeStaleFlows, finishCleaning } from "../../../src/daemon/remove-stale-flows.ts";
import { reconcile } from "../../../src/daemon/pass.ts";
import type { PassState, PassResult } from "../../../src/daemon/pass.ts";
import { lease, MAC_A, MAC_B } from "../../support/build-values.ts";
import { commandError, createFakeHost } from "../../support/fake-host.ts";
import type { FakeHost } from "../../support/fake-host.ts";

const CONFIG = "guests:\n  web: {ports: [1122:22]}\n";
const MOVED = "192.168.122.12";
const JUMP = '-A FORWARD -m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD';
let host: FakeHost;
let memory: PassState;

beforeEach(() => {
  memory = {};
  host = createFakeHost(CONFIG);
  host.leases = [lease("192.168.122.11", MAC_A)];
  host.domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A] }];
});

async function pass(): Promise<PassResult> {
  const result = await reconcile(host, memory, 1, "test");
  ({ memory } = result);
  return result;
}

const save = (): readonly string[] => host.rules.save().split("\n");
const dnat = (): readonly string[] => save().filter((line) => line.startsWith("-A KVMNATD-DNAT"));
const codes = ({ problems }: PassResult): readonly string[] => problems.map(({ code }) => code);

it("after a refusal only what is missing by then is done", async () => {
  await pass();
  // The jump is gone, which the first attempt mends, and in nat stands what cannot be deleted by its own words.
  host.rules.restore(`*filter\n-D${JUMP.slice(2)}\nCOMMIT\n`);
  host.rules.restore("*nat\n-I KVMNATD-DNAT 1 -m recent --set -j DROP\nCOMMIT\n");
  host.refused = /-D KVMNATD-DNAT/;
  expect(codes(await pass())).toEqual([]);
  expect(save().filter((line) => line === JUMP)).toHaveLength(1);
  expect(dnat()).toHaveLength(1);
});

it("a refusal because another program was at work is answered by the rules' own words, not by places", async () => {
  await pass();
  // The jumps in the chains of others go as well.
  host.config = "guests: {}\n";
  const scripts: string[] = [];
  const { restoreRules } = { restoreRules: host.restoreRules.bind(host) };
  host.restoreRules = async (tool, family, script) => {
    scripts.push(script.input);
    if (scripts.length === 1)
      throw commandError("iptables-restore", "Bad rule (does a matching rule exist in that chain?).");
    await restoreRules(tool, family, script);
  };
  expect(codes(await pass())).toEqual([]);
  expect(save().join()).not.toContain("KVMNATD");
  expect(scripts.join("")).not.toMatch(/^-D \S+ \d+$/m);
});

describe("the guard of 127.0.0.1", () => {
  const GUARD = '-d 127.0.0.0/8 -i virbr0 -m comment --comment "kvmnatd:@loopback-guard" -j DROP';
  const LOCALNET = "net/ipv4/conf/virbr0/route_localnet";
  const accept = (): void => host.rules.restore("*raw\n-I PREROUTING 1 -p tcp -j ACCEPT\nCOMMIT\n");
  const isFirst = (): boolean =>
    save().find((line) => line.startsWith("-A PREROUTING")) === `-A PREROUTING ${GUARD}`;

  beforeEach(async () => {
    host.config = `${CONFIG}reach: {loopback: true}\n`;
    host.sysctls.set(LOCALNET, "0");
    await pass();
    expect([isFirst(), host.sysctls.get(LOCALNET)]).toEqual([true, "2"]);
  });

  it("is put first again", async () => {
    accept();
    expect(codes(await pass())).toEqual([]);
    expect([isFirst(), host.sysctls.get(LOCALNET)]).toEqual([true, "2"]);
  });

  it("that is fought for: guests do not get at 127.0.0.1 meanwhile, all else goes on, and it is told", async () => {
    for (let count = 0; count < 3; count += 1) {
      accept();
      await pass();
    }
    accept();
    const { problems, failing } = await pass();
    expect(problems).toMatchObject([{ code: "loopback-guard-overridden", severity: "error" }]);
    expect(problems[0]?.message).toMatch(/puts `-p tcp -j ACCEPT` before .*virbr0/);
    expect(failing.size).toBe(0);
    expect(host.sysctls.get(LOCALNET)).toBe("0");
    // The one try a minute is no reason to open it: that the guard stays where it is, is.
    host.nowMs += 60_000;
    const { wakeAtMs } = await pass();
    expect([isFirst(), host.sysctls.get(LOCALNET)]).toEqual([true, "0"]);
    expect(wakeAtMs).toBeLessThanOrEqual(host.nowMs + 60_000);
    host.nowMs += 60_000;
    expect(codes(await pass())).toEqual([]);
    expect(host.sysctls.get(LOCALNET)).toBe("2");
  });
});

describe("a rule of ours in a chain of others that cannot be deleted by its words", () => {
  const STUCK = '-m comment --comment "kvmnatd:@jump" -m recent --set -j RETURN';
  beforeEach(async () => {
    await pass();
    host.rules.restore(`*nat\n-I PREROUTING 1 -p udp -j ACCEPT\n-I PREROUTING 2 ${STUCK}\nCOMMIT\n`);
    host.leases = [lease(MOVED, MAC_A)];
  });

  it("is deleted by its place", async () => {
    host.refused = /-D PREROUTING -m/;
    expect(codes(await pass())).toEqual([]);
    expect(save()).not.toContain(`-A PREROUTING ${STUCK}`);
    expect(save()).toContain("-A PREROUTING -p udp -j ACCEPT");
    expect(dnat().join()).toContain(MOVED);
  });

  it("nor by its place: it is named, and everything else is done", async () => {
    host.refused = /-D PREROUTING/;
    const { problems, failing } = await pass();
    expect(problems).toMatchObject([{ code: "command-failed", severity: "error" }]);
    expect(problems[0]?.message).toContain(`iptables -t nat -D PREROUTING ${STUCK}`);
    expect(failing.size).toBe(0);
    expect(dnat().join()).toContain(MOVED);
  });
});

it("a pass that cannot read the kernel forgets no incumbent", async () => {
  host.config = "guests:\n  web: {hostname: site, ports: [1122:22]}\n";
  host.leases = [lease("192.168.122.11", MAC_A, { hostname: "site" })];
  await pass();
  host.failing.set("readRules", commandError("iptables-save", "no memory"));
  await pass();
  host.failing.clear();
  host.rules.restore(`*nat\n${dnat().join("\n").replaceAll(/^-A/gm, "-D")}\nCOMMIT\n`);
  host.leases = [lease("192.168.122.11", MAC_A), lease("192.168.122.66", MAC_B, { hostname: "site" })];
  await pass();
  expect(dnat().join()).toContain("--to-destination 192.168.122.11:22");
});

it("a repair that failed is no lost fight", async () => {
  await pass();
  host.rules.restore("*filter\n-I FORWARD 1 -o virbr0 -j REJECT\nCOMMIT\n");
  host.failing.set("restoreRules", commandError("iptables-restore", "lock held"));
  for (let count = 0; count < 3; count += 1) expect(codes(await pass())).toEqual(["command-failed"]);
  host.failing.clear();
  expect(codes(await pass())).toEqual([]);
  expect(save().find((line) => line.startsWith("-A FORWARD"))).toBe(JUMP);
});

it("a host becomes a router only with the rules in place", async () => {
  host.sysctls.set("net/ipv4/ip_forward", "0");
  host.failing.set("restoreRules", commandError("iptables-restore", "lock held"));
  await pass();
  expect(host.sysctls.get("net/ipv4/ip_forward")).toBe("0");
  host.failing.clear();
  await pass();
  expect(host.sysctls.get("net/ipv4/ip_forward")).toBe("1");
});

const flow = (source: string, answerer: string): string =>
  `tcp      6 29 ESTABLISHED src=${source} dst=198.51.100.1 sport=4 dport=1122 src=${answerer} dst=${source} sport=22 dport=4 use=1`;

it("connections that could not be looked at stay in doubt", async () => {
  await pass();
  host.flows = [flow("198.51.100.2", "192.168.122.11")];
  host.leases = [lease(MOVED, MAC_A)];
  host.failing.set("listFlows", commandError("conntrack", "busy"));
  const failed = await pass();
  expect(codes(failed)).toEqual(["conntrack-failed"]);
  expect(failed.wakeAtMs).toBeLessThanOrEqual(host.nowMs + 10_000);
  host.failing.clear();
  await pass();
  expect(host.removed).toMatchObject([{ flow: { replySource: "192.168.122.11" } }]);
  await pass();
  expect(host.removed).toHaveLength(1);
});

it("the first pass knows from its own changes where a port led that it no longer publishes", async () => {
  host.config = "guests:\n  web: {ports: [1122:22, 1180:80]}\n";
  await pass();
  memory = {};
  host.flows = [flow("198.51.100.2", "192.168.122.11")];
  host.config = "guests:\n  web: {ports: [1180:80]}\n";
  await pass();
  expect(host.removed).toMatchObject([{ flow: { port: 1122, replySource: "192.168.122.11" } }]);
});

it("so it does of the last port of all, with which the jumps go", async () => {
  await pass();
  memory = {};
  host.flows = [flow("198.51.100.2", "192.168.122.11")];
  host.config = "guests: {}\n";
  await pass();
  expect(host.removed).toMatchObject([{ flow: { port: 1122, replySource: "192.168.122.11" } }]);
});

it("connections are removed some at a time, and the rules come first in between", async () => {
  host.config = "guests:\n  web: {ports: [1122:22], allow: [198.51.100.0/24, 203.0.113.0/24]}\n";
  await pass();
  const astray = Array.from({ length: 50 }, (_, index) => flow(`198.51.100.${index + 2}`, "192.168.122.11"));
  // One that is right where it is keeps them from going all at once.
  host.flows = [...astray, flow("203.0.113.5", "192.168.122.11")];
  host.config = "guests:\n  web: {ports: [1122:22], allow: [203.0.113.0/24]}\n";
  expect((await pass()).wakeAtMs).toBe(host.nowMs);
  expect(host.removed).toHaveLength(20);
  host.flows = [...astray.slice(20), flow("203.0.113.5", "192.168.122.11")];
  await pass();
  host.flows = [...astray.slice(40), flow("203.0.113.5", "192.168.122.11")];
  expect((await pass()).wakeAtMs).not.toBe(host.nowMs);
  expect(host.removed.map((each) => each.flow.source)).not.toContain("203.0.113.5");
  expect(host.removed).toHaveLength(50);
});

it("who was cut off is looked for again, less and less often; a late reply is cut off until their own packet is first", async () => {
  host.config = "guests:\n  web: {ports: [8080:8080]}\n";
  await pass();
  const ends = (from: string, to: string): string => `src=${from} dst=${to} sport=8080 dport=4`;
  const back = "src=198.51.100.2 dst=198.51.100.1 sport=4 dport=8080";
  const [web, client] = ["192.168.122.11", "198.51.100.2"];
  host.flows = [`tcp      6 29 ESTABLISHED ${back} ${ends(web, client)} [ASSURED] use=1`];
  host.config = "guests:\n  web: {ports: [8080:8080], allow: [203.0.113.0/24]}\n";
  const began = host.nowMs;
  const { view } = await pass();
  expect(host.removed).toMatchObject([{ beginner: "client" }]);
  host.flows = [];
  // Three more replies come first, then a packet of the client's.
  const counts = [1, 1, 1, 0];
  host.removeFlows = async (flows) =>
    Promise.resolve(host.removed.push(flows)).then(() => counts.shift() ?? 0);
  const looks: number[] = [];
  const entries: string[] = [];
  let cleaning = await removeStaleFlows(host, view, [], memory.flows ?? { leads: [] });
  host.flows = [`tcp      6 29 ESTABLISHED ${ends(web, client)} ${back} [ASSURED] use=1`];
  while (cleaning.wakeAtMs !== undefined) {
    host.nowMs = cleaning.wakeAtMs;
    looks.push(host.nowMs - began);
    cleaning = await removeStaleFlows(host, view, [], cleaning.memory);
    entries.push(...cleaning.entries.map(({ message }) => message));
    host.flows = [];
  }
  expect(looks).toEqual([100, 200, 400, 800, 1600, 3200, 6400, 12_800]);
  expect(host.removed.slice(1).map(({ beginner }) => beginner)).toEqual(Array(4).fill("answerer"));
  expect(entries).toEqual([
    `web: 3 conntrack entries of tcp port 8080 at 198.51.100.1 removed that began by a late reply of ${web}`,
  ]);
});

describe("many connections, one command each", () => {
  const SOURCES = Array.from({ length: 50 }, (_, index) => `198.51.100.${index + 2}`);
  const straight = (source: string): string =>
    `tcp      6 29 ESTABLISHED src=${source} dst=198.51.100.1 sport=4 dport=8080 src=192.168.122.11 dst=${source} sport=8080 dport=4 use=1`;

  beforeEach(async () => {
    host.config = "guests:\n  web: {ports: [8080:8080]}\n";
    await pass();
    // One that may stay keeps them from going all at once.
    host.config = "guests:\n  web: {ports: [8080:8080], allow: [203.0.113.0/24]}\n";
    host.flows = [...SOURCES, "203.0.113.5"].map(straight);
  });

  it("what was removed before a failure is told, and looked for", async () => {
    let calls = 0;
    host.removeFlows = (flows) => {
      calls += 1;
      if (calls === 4) return Promise.reject(commandError("conntrack", "busy"));
      return Promise.resolve(host.removed.push(flows)).then(() => 1);
    };
    const { entries, problems, wakeAtMs } = await pass();
    expect(problems.map(({ code }) => code)).toEqual(["conntrack-failed"]);
    expect(entries.filter(({ event }) => event === "conntrack-entries-removed")).toHaveLength(3);
    expect(memory.flows?.cut?.get(4)?.map(({ flow: { source } }) => source)).toEqual(SOURCES.slice(0, 3));
    expect(wakeAtMs).toBeLessThanOrEqual(host.nowMs + 100);
  });

  it("who makes one pass only goes on until all are gone", async () => {
    host.removeFlows = (flows) => {
      host.flows = host.flows.filter((each) => !each.includes(` src=${flows.flow.source} `));
      host.removed.push(flows);
      return Promise.resolve(1);
    };
    const { view } = await pass();
    expect(host.flows).toHaveLength(31);
    await finishCleaning({ ...host, now: () => Date.now() }, view, memory.flows ?? { leads: [] });
    expect(host.flows).toEqual([straight("203.0.113.5")]);
  });

  it("are removed for a fifth of a second, then others have their turn; none is forgotten", async () => {
    host.removeFlows = (flows) => {
      host.nowMs += 120;
      host.flows = host.flows.filter((each) => !each.includes(` src=${flows.flow.source} `));
      host.removed.push(flows);
      return Promise.resolve(1);
    };
    const { wakeAtMs } = await pass();
    expect(host.removed.length).toBeLessThanOrEqual(2);
    expect(wakeAtMs).toBeLessThanOrEqual(host.nowMs);
    for (let passes = 0; passes < 49; passes += 1)
      if (((await pass()).wakeAtMs ?? Number.POSITIVE_INFINITY) > host.nowMs) break;
    expect(host.flows).toEqual([straight("203.0.113.5")]);
  });

  it("that a guest begins again and again are looked for for a minute", async () => {
    // More of them than one pass removes: the others' turn comes later.
    const many = Array.from({ length: 150 }, (_, index) => `198.51.100.${index + 2}`);
    for (let from = 0; from < many.length; from += 20) {
      host.flows = [...many.slice(from), "203.0.113.5"].map(straight);
      await pass();
    }
    const cut = (): number => memory.flows?.cut?.get(4)?.length ?? 0;
    expect(cut()).toBe(many.length);
    const late = (source: string): string =>
      `tcp      6 29 ESTABLISHED src=192.168.122.11 dst=${source} sport=8080 dport=4 src=${source} dst=198.51.100.1 sport=4 dport=8080 use=1`;
    const began = host.nowMs;
    host.flows = [...many, "203.0.113.5"].map(late);
    while (cut() > 0 && host.nowMs - began < 120_000) {
      host.nowMs += 100;
      await pass();
    }
    expect(host.nowMs - began).toBeGreaterThan(12_800);
    expect(host.nowMs - began).toBeLessThanOrEqual(60_100);
  });
});

it("nobody is looked for where no late reply can reach them", async () => {
  await pass();
  host.flows = [flow("198.51.100.2", "192.168.122.11")];
  host.leases = [lease(MOVED, MAC_A)];
  const { view } = await pass();
  expect(host.removed).toHaveLength(1);
  expect(await removeStaleFlows(host, view, [], memory.flows ?? { leads: [] })).not.toHaveProperty(
    "wakeAtMs",
  );
});

describe.each(["missing", "unreadable"] as const)("libvirt's folder is %s at start", (folder) => {
  const GUESTS = [
    "  web: {ports: [1122:22]}\n",
    `  game: {mac: "${MAC_B}", ports: [1322:22]}\n`,
    "  printer: {address: 192.168.122.50, ports: [9100:9100]}\n",
  ];

  it("what the rules say stays, and it is told", async () => {
    host.config = `guests:\n${GUESTS.join("")}`;
    host.leases = [lease("192.168.122.11", MAC_A), lease("192.168.122.12", MAC_B)];
    await pass();
    const before = save();
    memory = {};
    host.folder = folder;
    const blind = await pass();
    expect(save()).toEqual(before);
    expect(blind.changed).toBe(false);
    expect(codes(blind)).toEqual(folder === "missing" ? ["lease-folder"] : []);
    // And so does what the file says once it can be read.
    host.folder = "read";
    host.leases = [lease(MOVED, MAC_A)];
    expect(codes(await pass())).toEqual([]);
    expect(dnat().join()).toContain(`${MOVED}:22`);
  });

  it("without rules there is nothing to keep: it waits", async () => {
    host.folder = folder;
    expect(codes(await pass())).toEqual(["waiting"]);
    expect(dnat()).toEqual([]);
  });
});

it("a network that libvirt does not have any more takes its rules along", async () => {
  await pass();
  memory = {};
  host.readLeaseFiles = () => Promise.resolve({ bridges: [], folder: "read", diagnostics: [] });
  expect(codes(await pass())).toEqual(["waiting"]);
  expect(dnat()).toEqual([]);
});

describe("an address outside every network that is up", () => {
  const printer = (address: string): string =>
    `${CONFIG}  printer: {address: ${address}, ports: [9100:9100]}\n`;
  const RIGHT = printer("192.168.122.50");
  const WRONG = printer("192.168.22.50");
  const leadsTo = (address: string): boolean => dnat().join().includes(`--to-destination ${address}:9100`);

  it("in a new config: the one before stays in force, with all its forwards", async () => {
    host.config = RIGHT;
    await pass();
    host.config = WRONG;
    const refused = await pass();
    expect(refused.view.configError?.message).toMatch(
      /kvmnatd\.yaml: line 3: 192\.168\.22\.50 can be no guest's/,
    );
    expect(codes(refused)).toEqual(["config-invalid"]);
    expect(leadsTo("192.168.122.50")).toBe(true);
    host.config = printer("192.168.122.51");
    expect(codes(await pass())).toEqual([]);
    expect(leadsTo("192.168.122.51")).toBe(true);
  });

  it("is not in force either because its network goes down and comes back", async () => {
    host.config = RIGHT;
    await pass();
    host.config = WRONG;
    await pass();
    host.isUp = false;
    expect(codes(await pass())).toContain("config-invalid");
    host.isUp = true;
    expect(codes(await pass())).toEqual(["config-invalid"]);
    expect(leadsTo("192.168.122.50")).toBe(true);
  });

  it("while its network is down nobody knows: the new config is in force, and right once it is up", async () => {
    host.isUp = false;
    await pass();
    host.config = RIGHT;
    expect(codes(await pass())).toEqual(["waiting"]);
    host.isUp = true;
    expect(codes(await pass())).toEqual([]);
    expect(leadsTo("192.168.122.50")).toBe(true);
  });

  it.each([
    ["that is up", true],
    ["that comes up later", false],
  ])("at start, on a network %s: pending, and all others are served", async (_what, isUp) => {
    host.config = WRONG;
    host.isUp = isUp;
    await pass();
    host.isUp = true;
    const result = await pass();
    expect(codes(result)).toEqual(["address-unserved"]);
    expect(result.view.resolution.forwards).toMatchObject([
      { target: { address: "192.168.122.11" } },
      { why: expect.stringMatching(/outside virbr0's/) },
    ]);
  });
});

it("what a config is warned of is told as long as that config is in force", async () => {
  host.config = `${CONFIG}  idle: {}\n`;
  const told = async (): Promise<readonly string[]> => (await pass()).problems.map(describeDiagnostic);
  const warning = 'kvmnatd.yaml: line 3: guest "idle" publishes no port; give it ports, or remove it';
  expect(await told()).toEqual([warning]);
  expect(await told()).toEqual([warning]);
  host.config = "not a map";
  expect(await told()).toEqual([expect.stringMatching(/stays in force/), warning]);
  host.config = CONFIG;
  expect(await told()).toEqual([]);
});

describe("bridges whose packets pass iptables", () => {
  const NF = "net/bridge/bridge-nf-call-iptables";

  it("keep a guest from its own port: told as long as it is so", async () => {
    host.sysctls.set(NF, "1");
    const { problems, failed } = await pass();
    expect(problems).toMatchObject([
      { code: "bridge-nf", severity: "warning", message: expect.stringContaining("its own published port") },
    ]);
    expect(failed).toBe(false);
    host.sysctls.set(NF, "0");
    expect(codes(await pass())).toEqual([]);
  });

  it("concern nobody without reach.guests, or while no guest is there", async () => {
    host.sysctls.set(NF, "1");
    const { domains } = host;
    host.domains = [];
    expect(codes(await pass())).toEqual([]);
    host.domains = domains;
    host.config = `${CONFIG}reach: {guests: false}\n`;
    expect(codes(await pass())).toEqual([]);
  });
});
