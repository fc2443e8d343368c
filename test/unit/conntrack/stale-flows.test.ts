import { describe, expect, it } from "vitest";
import { suspectsAfter, allSuspects } from "../../../src/conntrack/changed-ports.ts";
import type { SuspectPorts } from "../../../src/conntrack/changed-ports.ts";
import { mayBeAnsweredLate, parseFlow } from "../../../src/conntrack/flow.ts";
import type { Flow } from "../../../src/conntrack/flow.ts";
import type { ForwardingState } from "../../../src/conntrack/expected-target.ts";
import { findLateReplies, findStaleFlows } from "../../../src/conntrack/stale-flows.ts";
import { resolveForwards } from "../../../src/forwards/resolve.ts";
import {
  domain,
  guest,
  ip,
  lease,
  MAC_A,
  network,
  portMap,
  resolveInputs,
} from "../../support/build-values.ts";
import { portTargets } from "../../../src/forwards/resolved-forward.ts";

const HOST = "192.168.1.100";
const HOSTS = new Map([["eth0", [ip(HOST)]]]);
/** Captured: conntrack-tools 1.4.7. */
const LINE =
  "udp      17 29 src=198.51.100.2 dst=192.168.1.100 sport=40000 dport=5353 src=192.168.122.11 dst=198.51.100.2 sport=53 dport=40000 [ASSURED] mark=0 use=1";

interface Ask {
  readonly protocol?: "tcp" | "udp";
  readonly state?: string;
  readonly source?: string;
  readonly asked?: string;
  readonly port?: number;
  readonly answerer?: string;
  readonly answerPort?: number;
}

function line(ask: Ask): string {
  const { protocol = "udp", state, source = "198.51.100.2", asked = HOST, port = 5353 } = ask;
  const { answerer = "192.168.122.11", answerPort = 53 } = ask;
  const head = `${protocol}      17 29 ${state === undefined ? "" : `${state} `}src=${source} dst=${asked} sport=40000 dport=${port}`;
  return `${head} src=${answerer} dst=${source} sport=${answerPort} dport=40000 [ASSURED] mark=0 use=1`;
}

function expectation(
  more: Partial<ForwardingState["reach"]> = {},
  allow: readonly string[] = [],
): ForwardingState {
  const reach = { guests: true, host: true, loopback: false, ...more };
  const map = portMap(
    [
      guest("web", domain("web"), [
        { protocol: "udp", published: 5353, target: 53, allow },
        { protocol: "tcp", published: 22, target: 22, allow },
      ]),
    ],
    { reach },
  );
  const up = network({
    leases: [lease("192.168.122.11", MAC_A)],
    domains: [{ bridge: "virbr0", domain: "web", macs: [MAC_A] }],
  });
  const { forwards } = resolveForwards(map, [], resolveInputs([up], HOSTS));
  return { forwards, reach, addresses: HOSTS, networks: [up] };
}

function all({ forwards }: ForwardingState): SuspectPorts {
  return allSuspects([], portTargets(forwards), 4);
}

function stale(ask: Ask, given = expectation(), doubt?: SuspectPorts): boolean {
  return findStaleFlows([line(ask)], doubt ?? all(given), given, 4).length > 0;
}

describe("a line of conntrack -L", () => {
  it.each([
    ["udp", LINE, { protocol: "udp", port: 5353, replySource: "192.168.122.11", replySourcePort: 53 }],
    ["without an answer yet", LINE.replace(" src=192", " [UNREPLIED] src=192"), { port: 5353 }],
    ["with counters", LINE.replace("dport=5353", "dport=5353 packets=1 bytes=29"), { port: 5353 }],
    ["tcp", line({ protocol: "tcp", state: "SYN_SENT" }), { protocol: "tcp", state: "SYN_SENT" }],
    ["offloaded, without a timeout", LINE.replace("17 29", "17"), { port: 5353 }],
  ])("%s", (_what, text, flow) => {
    expect(parseFlow(text)).toMatchObject(flow);
  });

  it.each([
    [
      "icmp",
      "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1 use=1",
    ],
    ["nothing", ""],
  ])("%s is none", (_what, text) => {
    expect(parseFlow(text)).toBeUndefined();
  });
});

describe("leads astray", () => {
  it.each<[string, Ask, boolean]>([
    ["leads where it should", {}, false],
    ["leads to another guest", { answerer: "192.168.122.12" }, true],
    ["leads to another port of the guest", { answerPort: 54 }, true],
    ["is answered by the host", { answerer: HOST, answerPort: 5353 }, true],
    ["asks somebody else's port of that number", { asked: "203.0.113.5", answerer: "203.0.113.5" }, false],
    ["asks 127.0.0.1, which is not published", { asked: "127.0.0.1", answerer: "127.0.0.1" }, false],
    ["asks another port", { port: 5354, answerer: "192.168.122.12" }, false],
    ["asks by another protocol", { protocol: "tcp", answerer: "192.168.122.12" }, false],
    [
      "is a login on the host",
      { protocol: "tcp", state: "ESTABLISHED", port: 22, answerer: HOST, answerPort: 22 },
      false,
    ],
    [
      "still knocks at the host",
      { protocol: "tcp", state: "SYN_SENT", port: 22, answerer: HOST, answerPort: 22 },
      true,
    ],
  ])("%s", (_what, ask, expected) => {
    expect(stale(ask)).toBe(expected);
  });

  it("not where the host or guests are not to reach it", () => {
    const bypass = { answerer: HOST, answerPort: 5353 };
    expect(stale({ ...bypass, source: HOST })).toBe(true);
    expect(stale({ ...bypass, source: HOST }, expectation({ host: false }))).toBe(false);
    expect(stale({ ...bypass, source: "192.168.122.50" })).toBe(true);
    expect(stale({ ...bypass, source: "192.168.122.50" }, expectation({ guests: false }))).toBe(false);
  });

  it("not what 127.0.0.1 leads to, whatever else the host may reach; and what it led, when that is over", () => {
    const own: Ask = { protocol: "tcp", state: "ESTABLISHED", port: 22, answerPort: 22 };
    const asked = { ...own, source: "127.0.0.1", asked: "127.0.0.1" };
    for (const host of [true, false]) {
      expect(stale(asked, expectation({ host, loopback: true }))).toBe(false);
      expect(stale(asked, expectation({ host, loopback: false }))).toBe(true);
    }
  });

  it("who is no longer allowed, and only who", () => {
    const given = expectation({}, ["10.0.0.0/8"]);
    const rule = (source: string): string =>
      `-s ${source} -p udp -m udp --dport 5353 -m comment --comment "kvmnatd:web" -j DNAT --to-destination 192.168.122.11:53`;
    const doubt = suspectsAfter(
      [
        {
          family: 4,
          change: {
            kind: "remove",
            table: "nat",
            chain: "KVMNATD-DNAT",
            rule: rule("198.51.100.0/24"),
            place: undefined,
            blocker: undefined,
          },
        },
      ],
      portTargets(given.forwards),
      portTargets(given.forwards),
      4,
    );
    expect(findStaleFlows([line({}), line({ source: "10.1.1.1" })], doubt, given, 4)).toMatchObject([
      { flow: { source: "198.51.100.2" }, bySource: true, guest: "web" },
    ]);
  });

  it("a forward that is gone: all that it led", () => {
    const doubt: SuspectPorts = {
      ports: [{ protocol: "udp", range: { first: 7000, last: 7099 } }],
      formerTargets: new Set([ip("192.168.122.11")]),
    };
    expect(stale({ port: 7042, answerPort: 7042 }, expectation(), doubt)).toBe(true);
    expect(stale({ port: 7042, answerPort: 7042, answerer: HOST }, expectation(), doubt)).toBe(false);
    expect(stale({ port: 7100, answerPort: 7100 }, expectation(), doubt)).toBe(false);
  });

  it("what the host itself asks a guest's address is nobody's forward", () => {
    const doubt: SuspectPorts = {
      ports: [{ protocol: "udp", range: { first: 53, last: 53 } }],
      formerTargets: new Set([ip("192.168.122.11")]),
    };
    expect(stale({ source: HOST, asked: "192.168.122.11", port: 53 }, expectation(), doubt)).toBe(false);
  });

  it("the host or guests that were let in until now", () => {
    expect(stale({ source: HOST })).toBe(false);
    expect(stale({ source: HOST }, expectation({ host: false }))).toBe(true);
    expect(stale({ source: "192.168.122.50" }, expectation({ guests: false }))).toBe(true);
  });
});

describe("by few commands", () => {
  const clients = (ask: Ask): readonly string[] =>
    Array.from({ length: 1000 }, (_, index) =>
      line({ source: `198.51.${index >> 8}.${index & 255}`, ...ask }),
    );

  it("many clients alike", () => {
    const lines = clients({ answerer: "192.168.122.12" });
    expect(findStaleFlows(lines, all(expectation()), expectation(), 4)).toHaveLength(1);
  });

  it("many clients alike, where some sources have no way in", () => {
    const given = expectation({ host: false });
    const lines = clients({ answerer: HOST, answerPort: 5353 });
    expect(findStaleFlows(lines, all(given), given, 4)).toMatchObject([{ bySource: false }]);
    const own = line({ source: HOST, answerer: HOST, answerPort: 5353 });
    expect(findStaleFlows([...lines, own], all(given), given, 4)).toHaveLength(1000);
  });

  const range: SuspectPorts = {
    ports: [{ protocol: "udp", range: { first: 7000, last: 7999 } }],
    formerTargets: new Set([ip("192.168.122.12")]),
  };
  const ports = Array.from({ length: 1000 }, (_, index) =>
    line({ port: 7000 + index, answerPort: 7000 + index, answerer: "192.168.122.12" }),
  );

  it("many ports of a guest that has no others", () => {
    expect(findStaleFlows(ports, range, expectation(), 4)).toMatchObject([{ byPort: false }]);
    const elsewhere = line({ port: 8053, asked: "203.0.113.5", answerer: "192.168.122.12" });
    expect(findStaleFlows([...ports, elsewhere], range, expectation(), 4)).toHaveLength(1);
  });

  it("but one by one where one of them has a client who may stay", () => {
    const given = expectation({}, ["10.0.0.0/8"]);
    const toWeb = (ask: Ask): string => line({ protocol: "tcp", state: "ESTABLISHED", ...ask });
    const gone = Array.from({ length: 8 }, (_, index) =>
      toWeb({ port: 7000 + index, answerPort: 7000 + index }),
    );
    const lines = [
      ...gone,
      toWeb({ port: 22, answerPort: 22 }),
      toWeb({ port: 22, answerPort: 22, source: "10.1.1.1" }),
    ];
    const doubt: SuspectPorts = {
      ports: [22, ...Array.from({ length: 8 }, (_, index) => 7000 + index)].map((port) => ({
        protocol: "tcp",
        range: { first: port, last: port },
      })),
      formerTargets: new Set([ip("192.168.122.11")]),
    };
    const found = findStaleFlows(lines, doubt, given, 4);
    expect(found).toHaveLength(9);
    expect(found.every(({ byPort }) => byPort)).toBe(true);
  });

  it("but one by one where somebody else's rule leads to the same guest", () => {
    const foreign = line({ port: 8053, answerer: "192.168.122.12" });
    expect(findStaleFlows([...ports, foreign], range, expectation(), 4)).toHaveLength(1000);
  });
});

describe("a late reply", () => {
  const read = (text: string): Flow => parseFlow(text) ?? expect.fail(text);
  const cut = [
    { answerer: HOST, answerPort: 5353 },
    { answerer: "192.168.122.12", answerPort: 5353 },
  ].map((ask) => read(line(ask)));
  /** What the kernel shows where a reply came first. */
  const reply = (from: string, to = "198.51.100.2", clientPort = 40_000, asked = HOST): string =>
    `udp      17 29 src=${from} dst=${to} sport=5353 dport=${clientPort} src=${to} dst=${asked} sport=${clientPort} dport=5353 mark=0 use=1`;

  it.each([
    ["of the host itself", reply(HOST), true],
    ["not answered yet", reply(HOST).replace(" src=198", " [UNREPLIED] src=198"), true],
    ["of the guest before", reply("192.168.122.12"), true],
    ["to another port of the client: the host asks it something", reply(HOST, "198.51.100.2", 123), false],
    ["to somebody else", reply(HOST, "198.51.100.3"), false],
    ["from another address of the host", reply(HOST, "198.51.100.2", 40_000, "203.0.113.5"), false],
    ["is the client's own connection", line({}), false],
    ["nothing", "", false],
  ])("%s", (_what, text, expected) => {
    const found = findLateReplies([text], cut, expectation(), 4);
    expect(found).toHaveLength(expected ? 1 : 0);
  });

  it("by its ports", () => {
    expect(findLateReplies([reply(HOST)], cut, expectation(), 4)).toMatchObject([
      {
        beginner: "answerer",
        bySource: false,
        guest: "web",
        flow: { source: "198.51.100.2", sourcePort: 40_000, port: 5353 },
      },
    ]);
  });

  it("by one command where many are alike, and nobody else's with them", () => {
    const sources = Array.from({ length: 100 }, (_, index) => `203.0.113.${index}`);
    const all100 = sources.map((source) => read(line({ source, answerer: HOST, answerPort: 5353 })));
    const lines = sources.map((source) => reply(HOST, source));
    expect(findLateReplies(lines, all100, expectation(), 4)).toMatchObject([{ bySource: false }]);
    const asks = reply(HOST, "203.0.113.5", 123);
    const found = findLateReplies([...lines, asks], all100, expectation(), 4);
    expect(found).toHaveLength(100);
    expect(found.every(({ bySource }) => bySource)).toBe(true);
  });

  it("is right again when the port is the host's own again", () => {
    expect(findLateReplies([reply(HOST)], cut, { ...expectation(), forwards: [] }, 4)).toEqual([]);
    expect(
      findLateReplies([reply("192.168.122.12")], cut, { ...expectation(), forwards: [] }, 4),
    ).toHaveLength(1);
  });

  it("can come where the port stays the same, and to who was answered", () => {
    expect(cut.map(mayBeAnsweredLate)).toEqual([true, true]);
    expect(mayBeAnsweredLate(read(LINE))).toBe(false);
    const knocking = line({ protocol: "tcp", state: "SYN_SENT", port: 22, answerer: HOST, answerPort: 22 });
    expect(mayBeAnsweredLate(read(knocking))).toBe(false);
  });
});

describe("in doubt", () => {
  const led = { family: 4, protocol: "udp", range: { first: 5353, last: 5353 } } as const;
  const before = [{ ...led, address: ip("192.168.122.11") }];

  it("a forward that ended, whoever removed its rules", () => {
    expect(suspectsAfter([], before, [], 4)).toEqual({
      ports: [{ protocol: "udp", range: led.range }],
      formerTargets: new Set(["192.168.122.11"]),
    });
  });

  it("all ports, when the way to them has changed", () => {
    const rule = '-m addrtype --dst-type LOCAL -m comment --comment "kvmnatd:@jump" -j KVMNATD-DNAT';
    const jump = { kind: "add", table: "nat", chain: "PREROUTING", rule, position: 1, last: true } as const;
    expect(suspectsAfter([{ family: 4, change: jump }], before, before, 4).ports).toHaveLength(1);
    expect(suspectsAfter([], before, before, 4).ports).toHaveLength(0);
    expect(suspectsAfter([{ family: 4, change: jump }], before, before, 6).ports).toHaveLength(0);
  });
});
