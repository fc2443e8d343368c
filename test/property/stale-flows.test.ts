import fc from "fast-check";
import { expect, it } from "vitest";
import { cidrContains, familyOf, parseCidr } from "../../src/net/address.ts";
import type { Cidr, Family, Ip, Protocol, HostAddresses } from "../../src/net/address.ts";
import { buildDesired } from "../../src/rules/desired.ts";
import { suspectAllPorts } from "../../src/conntrack/changed-ports.ts";
import { createForwardingState } from "../../src/conntrack/expected-target.ts";
import { clientKey, parseFlow } from "../../src/conntrack/flow.ts";
import type { Flow } from "../../src/conntrack/flow.ts";
import { findStaleFlows } from "../../src/conntrack/stale-flows.ts";
import type { StaleFlows } from "../../src/conntrack/stale-flows.ts";
import type { PortMap } from "../../src/config/port-map.ts";
import { resolveForwards } from "../../src/forwards/resolve.ts";
import { optionOf, splitOptions, targetOf } from "../../src/rules/ruleset.ts";
import type { Desired, RuleText } from "../../src/rules/ruleset.ts";
import {
  domain,
  guest,
  ip,
  lease,
  MAC_A,
  MAC_B,
  network,
  portMap,
  resolveInputs,
} from "../support/build-values.ts";
import type { Listen } from "../../src/config/values/listen-address.ts";
import { toPortTargets } from "../../src/forwards/resolved-forward.ts";

const HOST: HostAddresses = new Map([
  ["lo", [ip("127.0.0.1"), ip("::1")]],
  ["eth0", [ip("192.168.1.100"), ip("192.168.1.101"), ip("2001:db8::100")]],
  ["virbr0", [ip("192.168.122.1"), ip("fd00:122::1")]],
]);
const GUESTS = ["192.168.122.11", "192.168.122.12", "fd00:122::11", "fd00:122::12"].map(ip);
const UP = network({
  leases: [
    lease("192.168.122.11", MAC_A),
    lease("192.168.122.12", MAC_B),
    lease("fd00:122::11", MAC_A),
    lease("fd00:122::12", MAC_B),
  ],
  domains: [
    { bridge: "virbr0", domain: "web", macs: [MAC_A] },
    { bridge: "virbr0", domain: "db", macs: [MAC_B] },
  ],
});

/** A connection's first packet. */
interface Packet {
  readonly source: string;
  /** The incoming interface; absent: the host itself sends it. */
  readonly from?: string;
  readonly asked: string;
  readonly port: number;
}

const packetsOf: Readonly<Record<Family, fc.Arbitrary<Packet>>> = {
  4: packets(
    [
      ["203.0.113.5", "eth0"],
      ["10.0.0.5", "eth0"],
      ["192.168.122.50", "virbr0"],
      ["192.168.122.11", "virbr0"],
      ["127.0.0.1"],
      ["192.168.1.100"],
      ["192.168.122.1"],
    ],
    ["192.168.1.100", "192.168.1.101", "192.168.122.1", "127.0.0.1", "127.0.0.2", "203.0.113.9"],
  ),
  6: packets(
    [["2001:db8:5::1", "eth0"], ["fd00:122::50", "virbr0"], ["::1"], ["2001:db8::100"]],
    ["2001:db8::100", "fd00:122::1", "::1", "2001:db8:9::9"],
  ),
};

function packets(
  sources: readonly (readonly [source: string, from?: string])[],
  asked: readonly string[],
): fc.Arbitrary<Packet> {
  return fc
    .record({
      sender: fc.constantFrom(...sources),
      asked: fc.constantFrom(...asked),
      port: fc.integer({ min: 79, max: 86 }),
    })
    .map(({ sender: [source, from], ...rest }) => ({
      source,
      ...(from === undefined ? {} : { from }),
      ...rest,
    }))
    .filter((packet) => packet.from === undefined || !isLoopback(packet.asked));
}

function isLocal(address: string): boolean {
  return isLoopback(address) || [...HOST.values()].flat().some((own) => own === address);
}

/** No packet from outside reaches these: the kernel or the guard drops it before it counts as a connection. */
function isLoopback(address: string): boolean {
  return address.startsWith("127.") || address === "::1";
}

const listens = fc.uniqueArray(
  fc.constantFrom<Listen>(
    { kind: "any", family: 4 },
    { kind: "any", family: 6 },
    { kind: "address", address: ip("192.168.1.100") },
    { kind: "address", address: ip("192.168.1.101") },
    { kind: "address", address: ip("2001:db8::100") },
    { kind: "interface", name: "eth0" },
  ),
  { minLength: 1, maxLength: 2 },
);
const allowlists = fc.uniqueArray(
  fc.constantFrom("10.0.0.0/8", "192.168.122.0/24", "127.0.0.0/8", "192.168.1.100", "2001:db8::/32", "::/0"),
  { maxLength: 2 },
);
const rangesOf = fc.constantFrom<
  readonly [published: readonly [number, number], target: readonly [number, number]]
>(
  [
    [80, 80],
    [22, 22],
  ],
  [
    [81, 81],
    [81, 81],
  ],
  [
    [80, 84],
    [80, 84],
  ],
  [
    [82, 85],
    [1082, 1085],
  ],
);
const wishes = fc
  .record({ ports: rangesOf, listen: listens, allow: allowlists })
  .map(({ ports: [published, target], ...rest }) => ({ published, target, ...rest }));

function portMapsOf(protocol: Protocol): fc.Arbitrary<PortMap> {
  const forwards = fc.array(
    wishes.map((wish) => ({ ...wish, protocol })),
    { maxLength: 2 },
  );
  const reachOf = fc.record({ guests: fc.boolean(), host: fc.boolean(), loopback: fc.boolean() });
  return fc
    .record({ web: forwards, db: forwards, reach: reachOf })
    .map(({ web, db, reach }) =>
      portMap([guest("web", domain("web"), web), guest("db", domain("db"), db)], { reach }),
    );
}

/** Where the rules lead a packet; undefined: no rule redirects it. */
function leadOf(
  desired: Desired,
  packet: Packet,
): { readonly address: string; readonly port: number } | undefined {
  const hook = packet.from === undefined ? "OUTPUT" : "PREROUTING";
  const base = desired.jumps.flatMap(({ table, chain, rule }) =>
    table === "nat" && chain === hook ? [rule] : [],
  );
  for (const rule of base) {
    if (!matches(rule, packet)) continue;
    const chain = desired.chains.nat.get(targetOf(rule) ?? "") ?? [];
    const first = chain.find((each) => matches(each, packet));
    if (first !== undefined && targetOf(first) === "DNAT") return destinationFor(first, packet.port);
    expect(first === undefined || targetOf(first) === "RETURN").toBe(true);
  }
  return undefined;
}

function matches(rule: RuleText, { source, from, asked, port }: Packet): boolean {
  const isIn = (cidr: string | undefined, address: string): boolean =>
    cidrContains(parseCidr(cidr ?? "") as Cidr, address as Ip);
  return splitOptions(rule).every(({ flag, negated, values: [value] }) => {
    switch (flag) {
      case "-s":
        return isIn(value, source) !== negated;
      case "-d":
        return isIn(value, asked) !== negated;
      case "-i":
        return value === from;
      case "--dst-type":
        return isLocal(asked);
      case "--dport": {
        const [first = 0, last = first] = (value ?? "").split(":").map(Number);
        return first <= port && port <= last;
      }
      case "-p":
      case "-m":
      case "-j":
      case "--comment":
      case "--to-destination":
        return true;
      default:
        throw new Error(`this test does not understand ${flag}: ${rule}`);
    }
  });
}

/** `ADDRESS`, `ADDRESS:PORT` or `ADDRESS:FIRST-LAST/BASE`, an IPv6 address in brackets where a port follows. */
function destinationFor(rule: RuleText, port: number): { readonly address: string; readonly port: number } {
  const text = optionOf(rule, "--to-destination") ?? "";
  const [, bracketed, plain = "", first, base] = /^(?:\[(.*)\]|([^:]*))(?::(\d+)(?:-\d+\/(\d+))?)?$/.exec(
    text,
  ) ?? ["", "", text];
  const shift = base === undefined ? 0 : port - Number(base);
  return { address: bracketed || plain, port: first === undefined ? port : Number(first) + shift };
}

function flowLine(packet: Packet, protocol: Protocol, answerer: string, answerPort: number): string {
  const { source, asked, port } = packet;
  const head = protocol === "udp" ? "udp      17 29" : "tcp      6 431999 ESTABLISHED";
  return `${head} src=${source} dst=${asked} sport=40000 dport=${port} src=${answerer} dst=${source} sport=${answerPort} dport=40000 [ASSURED] mark=0 use=1`;
}

interface Case {
  readonly protocol: Protocol;
  readonly map: PortMap;
  readonly family: Family;
  readonly packet: Packet;
}

function casesOf(protocol: Protocol): fc.Arbitrary<Case> {
  return fc
    .record({ map: portMapsOf(protocol), family: fc.constantFrom<Family>(4, 6) })
    .chain((given) => packetsOf[given.family].map((packet) => ({ ...given, protocol, packet })));
}

/** The same connection, as an entry that the server began. */
function replyLine(packet: Packet, answerer: string, answerPort: number): string {
  const { source, asked, port } = packet;
  return `udp      17 29 src=${answerer} dst=${source} sport=${answerPort} dport=40000 src=${source} dst=${asked} sport=40000 dport=${port} mark=0 use=1`;
}

interface InForce {
  readonly desired: Desired;
  readonly isPublished: (port: number) => boolean;
  readonly isStale: (line: string) => boolean;
  readonly commandsFor: (lines: readonly string[]) => readonly StaleFlows[];
  /** Whether it is stale after this client's entry was removed. */
  readonly isLate: (line: string, removed: string) => boolean;
}

/** The rules of a config, and the check of connections by the same config. */
function inForce(map: PortMap, family: Family): InForce {
  const { forwards } = resolveForwards(map, [], resolveInputs([UP], HOST));
  const forwarding = { forwards, reach: map.reach, addresses: HOST, networks: [UP] };
  const state = createForwardingState(forwarding, family);
  const { ports } = suspectAllPorts({ before: [], after: toPortTargets(forwards) }, family);
  const find = (lines: readonly string[], clients: readonly string[] = []): readonly StaleFlows[] =>
    findStaleFlows(lines, { ports, formerTargets: new Set(GUESTS), clients: new Set(clients) }, state);
  return {
    desired: buildDesired({ portMap: map, forwards, networks: [UP] }, family, new Set()),
    isPublished: (port) => ports.some(({ range }) => range.first <= port && port <= range.last),
    isStale: (line) => find([line]).length > 0,
    commandsFor: (lines) => find(lines),
    isLate: (line, removed) =>
      find([line], [clientKey(parseFlow(removed) ?? expect.fail(removed))]).length > 0,
  };
}

const RUNS = { numRuns: 300 };

it("keeps a connection to the target to which the rules redirect it", () => {
  fc.assert(
    fc.property(
      fc.constantFrom<Protocol>("tcp", "udp").chain(casesOf),
      ({ map, family, protocol, packet }) => {
        const { desired, isStale } = inForce(map, family);
        const { address, port } = leadOf(desired, packet) ?? { address: packet.asked, port: packet.port };
        expect(isStale(flowLine(packet, protocol, address, port))).toBe(false);
      },
    ),
    RUNS,
  );
});

it("finds a connection that bypasses a rule, or whose server is a guest to which no rule redirects it", () => {
  fc.assert(
    fc.property(casesOf("udp"), fc.constantFrom(...GUESTS), ({ map, family, packet }, elsewhere) => {
      const { desired, isPublished, isStale } = inForce(map, family);
      const lead = leadOf(desired, packet);
      const concerns = isLocal(packet.asked) && isPublished(packet.port) && familyOf(elsewhere) === family;
      const astray = [
        ...(lead === undefined ? [] : [packet.asked]),
        ...(lead?.address === elsewhere ? [] : [elsewhere]),
      ];
      const lines = concerns ? astray.map((answerer) => flowLine(packet, "udp", answerer, packet.port)) : [];
      expect(lines.filter((line) => !isStale(line))).toEqual([]);
    }),
    RUNS,
  );
});

/** As conntrack understands the command. */
function isRemoved(command: StaleFlows, flow: Flow): boolean {
  const { port, source, state } = command.selector;
  const keys: readonly (keyof Flow)[] = [
    "protocol",
    "originalDestination",
    "replySource",
    ...(port === undefined ? [] : (["port", "replySourcePort"] as const)),
    ...(source === undefined ? [] : (["source"] as const)),
    ...(state === undefined ? [] : (["state"] as const)),
  ];
  return keys.every((key) => command.flow[key] === flow[key]);
}

it("removes every stale connection and no other", () => {
  fc.assert(
    fc.property(
      fc
        .record({ map: portMapsOf("udp"), protocol: fc.constantFrom<Protocol>("udp") })
        .chain(({ map, protocol }) =>
          fc.record({
            map: fc.constant(map),
            protocol: fc.constant(protocol),
            asks: fc.array(fc.tuple(packetsOf[4], fc.constantFrom(...GUESTS.slice(0, 2), undefined)), {
              minLength: 10,
              maxLength: 60,
            }),
          }),
        ),
      ({ map, protocol, asks }) => {
        const { isStale, commandsFor } = inForce(map, 4);
        const lines = asks.map(([packet, elsewhere]) =>
          flowLine(packet, protocol, elsewhere ?? packet.asked, packet.port),
        );
        const commands = commandsFor(lines);
        for (const line of lines) {
          const flow = parseFlow(line) ?? expect.fail(line);
          expect([line, commands.some((command) => isRemoved(command, flow))]).toEqual([line, isStale(line)]);
        }
      },
    ),
    RUNS,
  );
});

it("finds a late reply's entry exactly when the rules redirect its client to another target", () => {
  fc.assert(
    fc.property(casesOf("udp"), fc.constantFrom(...GUESTS), ({ map, family, packet }, other) => {
      const { desired, isLate } = inForce(map, family);
      const lead = leadOf(desired, packet) ?? { address: packet.asked, port: packet.port };
      const cut = flowLine(packet, "udp", packet.asked, packet.port);
      expect(isLate(replyLine(packet, lead.address, lead.port), cut)).toBe(false);
      const somebody = { ...packet, source: familyOf(other) === 4 ? "203.0.113.77" : "2001:db8:77::1" };
      expect(isLate(replyLine(somebody, packet.asked, packet.port), cut)).toBe(false);
      const past = lead.address !== packet.asked && isLocal(packet.asked);
      expect(isLate(replyLine(packet, packet.asked, packet.port), cut)).toBe(past);
    }),
    RUNS,
  );
});
