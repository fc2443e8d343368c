import { beforeEach, describe, expect, it } from "vitest";
import { describeDiagnostic } from "../../../src/diagnostic.ts";
import { FIRST_PASS_STATE, reconcile } from "../../../src/daemon/pass.ts";
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
  memory = FIRST_PASS_STATE;
  host = createFakeHost(CONFIG);
  host.leases = [lease("192.168.122.11", MAC_A)];
  host.domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A] }];
});

async function pass(): Promise<PassResult> {
  const result = await reconcile(host, memory, { number: 1, trigger: "test", lingers: true });
  ({ memory } = result);
  return result;
}

const save = (): readonly string[] => host.rules.save().split("\n");
const dnat = (): readonly string[] => save().filter((line) => line.startsWith("-A KVMNATD-DNAT"));
const codes = ({ problems }: PassResult): readonly string[] => problems.map(({ code }) => code);

it("writes only what is missing after a rejected restore", async () => {
  await pass();
  // The jump is gone, which the first attempt mends, and in nat stands what cannot be deleted by its own words.
  host.rules.restore(`*filter\n-D${JUMP.slice(2)}\nCOMMIT\n`);
  host.rules.restore("*nat\n-I KVMNATD-DNAT 1 -m recent --set -j DROP\nCOMMIT\n");
  host.refused = /-D KVMNATD-DNAT/;
  expect(codes(await pass())).toEqual([]);
  expect(save().filter((line) => line === JUMP)).toHaveLength(1);
  expect(dnat()).toHaveLength(1);
});

it("deletes by text, not by position, when another program wrote at the same time", async () => {
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

  it("is moved back to the first position", async () => {
    accept();
    expect(codes(await pass())).toEqual([]);
    expect([isFirst(), host.sysctls.get(LOCALNET)]).toEqual([true, "2"]);
  });

  it("closes 127.0.0.1 and reports it while another program keeps it from its position; all else works", async () => {
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

it("logs each bridge that it closed when the kernel rejects the next one, and keeps the rules", async () => {
  const [one, other] = ["net/ipv4/conf/virbr0/route_localnet", "net/ipv4/conf/eth0/route_localnet"];
  host.sysctls.set(one, "2").set(other, "2");
  const write = host.writeSysctl.bind(host);
  host.writeSysctl = async (path, value) => {
    if (path === other) throw commandError("sysctl", "no");
    await write(path, value);
  };
  const { entries, failed } = await pass();
  expect(failed).toBe(true);
  expect(host.sysctls.get(one)).toBe("0");
  expect(entries.filter(({ event }) => event === "sysctl-set").map(({ message }) => message)).toEqual([
    "net.ipv4.conf.virbr0.route_localnet was 2: set to 0, 127.0.0.1 is published no more",
  ]);
  expect(dnat()).toEqual([]);
});

describe("a rule of ours in a foreign chain that cannot be deleted by its text", () => {
  const STUCK = '-m comment --comment "kvmnatd:@jump" -m recent --set -j RETURN';
  beforeEach(async () => {
    await pass();
    host.rules.restore(`*nat\n-I PREROUTING 1 -p udp -j ACCEPT\n-I PREROUTING 2 ${STUCK}\nCOMMIT\n`);
    host.leases = [lease(MOVED, MAC_A)];
  });

  it("is deleted by its position", async () => {
    host.refused = /-D PREROUTING -m/;
    expect(codes(await pass())).toEqual([]);
    expect(save()).not.toContain(`-A PREROUTING ${STUCK}`);
    expect(save()).toContain("-A PREROUTING -p udp -j ACCEPT");
    expect(dnat().join()).toContain(MOVED);
  });

  it("is reported when it cannot be deleted by its position either, and everything else is done", async () => {
    host.refused = /-D PREROUTING/;
    const { problems, failing } = await pass();
    expect(problems).toMatchObject([{ code: "command-failed", severity: "error" }]);
    expect(problems[0]?.message).toContain(`iptables -t nat -D PREROUTING ${STUCK}`);
    expect(failing.size).toBe(0);
    expect(dnat().join()).toContain(MOVED);
  });
});

it("keeps the incumbents when a pass cannot read the kernel", async () => {
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

it("logs rules that could not be read back as soon as the kernel shows them", async () => {
  const rulesOf = ({ entries }: PassResult): readonly string[] =>
    entries.flatMap(({ event, action }) => (event === "rule" && action !== undefined ? [action] : []));
  const failReadBack = (): void => {
    const { restoreRules } = { restoreRules: host.restoreRules.bind(host) };
    host.restoreRules = async (...args) => {
      await restoreRules(...args);
      host.failing.set("readRules", commandError("iptables-save", "killed"));
    };
  };
  await pass();
  const before = dnat();
  host.leases = [lease(MOVED, MAC_A)];
  failReadBack();
  const unverified = await pass();
  expect([unverified.failed, codes(unverified), rulesOf(unverified)]).toEqual([true, ["command-failed"], []]);
  expect(dnat()).not.toEqual(before);
  // It is still unreadable.
  expect(rulesOf(await pass())).toEqual([]);
  host.failing.clear();
  const verified = await pass();
  expect(rulesOf(verified)).toEqual(["remove", "add"]);
  expect(verified.entries.map(({ message }) => message)).toContain(`web: 192.168.122.11 -> ${MOVED} (test)`);
  expect(rulesOf(await pass())).toEqual([]);
});

it("does not count a failed repair towards the limit", async () => {
  await pass();
  host.rules.restore("*filter\n-I FORWARD 1 -o virbr0 -j REJECT\nCOMMIT\n");
  host.failing.set("restoreRules", commandError("iptables-restore", "lock held"));
  for (let count = 0; count < 3; count += 1) expect(codes(await pass())).toEqual(["command-failed"]);
  host.failing.clear();
  expect(codes(await pass())).toEqual([]);
  expect(save().find((line) => line.startsWith("-A FORWARD"))).toBe(JUMP);
});

it("enables routing only with the rules in place", async () => {
  host.sysctls.set("net/ipv4/ip_forward", "0");
  host.failing.set("restoreRules", commandError("iptables-restore", "lock held"));
  await pass();
  expect(host.sysctls.get("net/ipv4/ip_forward")).toBe("0");
  host.failing.clear();
  await pass();
  expect(host.sysctls.get("net/ipv4/ip_forward")).toBe("1");
});

describe.each(["missing", "unreadable"] as const)("libvirt's folder is %s at start", (folder) => {
  const GUESTS = [
    "  web: {ports: [1122:22]}\n",
    `  game: {mac: "${MAC_B}", ports: [1322:22]}\n`,
    "  printer: {address: 192.168.122.50, ports: [9100:9100]}\n",
  ];

  it("keeps the forwards that the rules have, and reports it", async () => {
    host.config = `guests:\n${GUESTS.join("")}`;
    host.leases = [lease("192.168.122.11", MAC_A), lease("192.168.122.12", MAC_B)];
    await pass();
    const before = save();
    memory = FIRST_PASS_STATE;
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

  it("waits when there are no rules", async () => {
    host.folder = folder;
    expect(codes(await pass())).toEqual(["waiting"]);
    expect(dnat()).toEqual([]);
  });
});

it("removes the rules of a network that libvirt no longer has", async () => {
  await pass();
  memory = FIRST_PASS_STATE;
  host.readLeaseFiles = () => Promise.resolve({ bridges: [], folder: "read", diagnostics: [] });
  expect(codes(await pass())).toEqual(["waiting"]);
  expect(dnat()).toEqual([]);
});

describe("a guest whose address is outside every network", () => {
  const printer = (address: string): string =>
    `${CONFIG}  printer: {address: ${address}, ports: [9100:9100]}\n`;
  const INSIDE = printer("192.168.122.50");
  const OUTSIDE = printer("192.168.22.50");
  const leadsTo = (address: string): boolean => dnat().join().includes(`--to-destination ${address}:9100`);
  const PENDING = [
    { target: { address: "192.168.122.11" } },
    { why: { text: expect.stringMatching(/outside virbr0's/) as string } },
  ];

  it("is pending with a warning in a new config, and the other guests are served", async () => {
    host.config = INSIDE;
    await pass();
    expect(leadsTo("192.168.122.50")).toBe(true);
    host.config = OUTSIDE;
    const result = await pass();
    expect(result.view.configError).toBeUndefined();
    expect(result.problems).toMatchObject([
      {
        code: "address-unserved",
        severity: "warning",
        message: expect.stringMatching(/^192\.168\.22\.50 .* outside virbr0's .* pending until/) as string,
      },
    ]);
    expect(result.view.resolution.forwards).toMatchObject(PENDING);
    expect(leadsTo("192.168.122.50")).toBe(false);
    host.config = printer("192.168.122.51");
    expect(codes(await pass())).toEqual([]);
    expect(leadsTo("192.168.122.51")).toBe(true);
  });

  it("stays pending when the network goes down and comes back", async () => {
    host.config = OUTSIDE;
    await pass();
    host.isUp = false;
    await pass();
    host.isUp = true;
    const result = await pass();
    expect(codes(result)).toEqual(["address-unserved"]);
    expect(result.view.resolution.forwards).toMatchObject(PENDING);
  });

  it("gets no warning while a network is down that the address may belong to", async () => {
    host.isUp = false;
    await pass();
    host.config = INSIDE;
    expect(codes(await pass())).toEqual(["waiting"]);
    host.isUp = true;
    expect(codes(await pass())).toEqual([]);
    expect(leadsTo("192.168.122.50")).toBe(true);
  });

  it("costs one reading of links and lease files when the config changes", async () => {
    await pass();
    const real = { ...host };
    const read: string[] = [];
    host.readLinks = () => (read.push("links"), real.readLinks());
    host.readLeaseFiles = (bridges) => (read.push("lease files"), real.readLeaseFiles(bridges));
    host.config = OUTSIDE;
    await pass();
    expect(read.toSorted()).toEqual(["lease files", "links"]);
  });

  it.each([
    ["is up", true],
    ["comes up later", false],
  ])("is pending at start when the network %s, and all others are served", async (_when, isUp) => {
    host.config = OUTSIDE;
    host.isUp = isUp;
    await pass();
    host.isUp = true;
    const result = await pass();
    expect(codes(result)).toEqual(["address-unserved"]);
    expect(result.view.resolution.forwards).toMatchObject(PENDING);
  });
});

it("reports the warnings of a config as long as the config is in force", async () => {
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

  it("are reported while they keep a guest from its own port", async () => {
    host.sysctls.set(NF, "1");
    const { problems, failed } = await pass();
    expect(problems).toMatchObject([
      { code: "bridge-nf", severity: "warning", message: expect.stringContaining("its own published port") },
    ]);
    expect(failed).toBe(false);
    host.sysctls.set(NF, "0");
    expect(codes(await pass())).toEqual([]);
  });

  it("are not reported without reach.guests, or while no guest is there", async () => {
    host.sysctls.set(NF, "1");
    const { domains } = host;
    host.domains = [];
    expect(codes(await pass())).toEqual([]);
    host.domains = domains;
    host.config = `${CONFIG}reach: {guests: false}\n`;
    expect(codes(await pass())).toEqual([]);
  });
});
