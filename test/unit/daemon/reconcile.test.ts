import { beforeEach, expect, it } from "vitest";
import { reconcile } from "../../../src/daemon/reconcile.ts";
import type { PassMemory, PassResult } from "../../../src/daemon/reconcile.ts";
import { lease, MAC_A, MAC_B } from "../../support/build-values.ts";
import { commandError, createFakeHost } from "../../support/fake-host.ts";
import type { FakeHost } from "../../support/fake-host.ts";

const CONFIG = "guests:\n  web: {ports: [1122:22]}\n";
const MOVED = "192.168.122.12";
const JUMP = '-A FORWARD -m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD';
let host: FakeHost;
let memory: PassMemory;

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
  host.refused = "-D KVMNATD-DNAT";
  expect(codes(await pass())).toEqual([]);
  expect(save().filter((line) => line === JUMP)).toHaveLength(1);
  expect(dnat()).toHaveLength(1);
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
  for (let count = 0; count < 3; count += 1) expect(codes(await pass())).toEqual(["command"]);
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
  expect(codes(failed)).toEqual(["conntrack"]);
  expect(failed.wakeAtMs).toBeLessThanOrEqual(host.nowMs + 10_000);
  host.failing.clear();
  await pass();
  expect(host.removed).toMatchObject([{ flow: { answerer: "192.168.122.11" } }]);
  await pass();
  expect(host.removed).toHaveLength(1);
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
