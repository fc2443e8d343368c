import { describe, expect, it } from "vitest";
import { formatDnatRule, parseDnatRule } from "../../../src/rules/dnat-rule.ts";
import type { DnatRule } from "../../../src/rules/dnat-rule.ts";
import { parseCidr } from "../../../src/net/address.ts";
import { ip, MAC_A } from "../../support/build-values.ts";

const RULE: DnatRule = {
  family: 4,
  protocol: "tcp",
  published: { first: 1122, last: 1122 },
  hostAddress: undefined,
  source: undefined,
  owner: { name: "web", identity: "", mac: MAC_A },
  destination: ip("192.168.122.11"),
  targetPorts: { first: 22, last: 22 },
};
const COMMENT = '-m comment --comment "kvmnatd:web 52:54:00:6c:3c:01"';
const RANGE = { first: 30_000, last: 30_099 };

describe("a DNAT rule", () => {
  it.each<readonly [string, Partial<DnatRule>, string]>([
    ["one port", {}, `-p tcp -m tcp --dport 1122 ${COMMENT} -j DNAT --to-destination 192.168.122.11:22`],
    [
      "a range that keeps its ports",
      { protocol: "udp", published: RANGE, targetPorts: RANGE },
      `-p udp -m udp --dport 30000:30099 ${COMMENT} -j DNAT --to-destination 192.168.122.11`,
    ],
    [
      "a shifted range",
      { published: RANGE, targetPorts: { first: 40_000, last: 40_099 } },
      `-p tcp -m tcp --dport 30000:30099 ${COMMENT} -j DNAT --to-destination 192.168.122.11:40000-40099/30000`,
    ],
    [
      "a host address and a source",
      { hostAddress: ip("192.168.1.100"), source: parseCidr("10.0.0.0/8") },
      `-s 10.0.0.0/8 -d 192.168.1.100/32 -p tcp -m tcp --dport 1122 ${COMMENT} -j DNAT --to-destination 192.168.122.11:22`,
    ],
    [
      "IPv6",
      { family: 6, hostAddress: ip("fd01::1"), destination: ip("fd00:122::11") },
      `-d fd01::1/128 -p tcp -m tcp --dport 1122 ${COMMENT} -j DNAT --to-destination [fd00:122::11]:22`,
    ],
    [
      "an IPv6 range that keeps its ports",
      { family: 6, destination: ip("fd00:122::11"), published: RANGE, targetPorts: RANGE },
      `-p tcp -m tcp --dport 30000:30099 ${COMMENT} -j DNAT --to-destination fd00:122::11`,
    ],
    [
      "an identity, and a guest without a MAC",
      { owner: { name: "web", identity: "address", mac: undefined } },
      '-p tcp -m tcp --dport 1122 -m comment --comment "kvmnatd:web address" -j DNAT --to-destination 192.168.122.11:22',
    ],
  ])("is written and read: %s", (_what, more, text) => {
    expect(formatDnatRule({ ...RULE, ...more })).toBe(text);
    expect(parseDnatRule(text)).toEqual({ ...RULE, ...more });
  });

  it("is read with its options in another order and without masks", () => {
    const text = `-d 192.168.1.100 -p tcp ${COMMENT} --dport 1122 -j DNAT --to-destination 192.168.122.11:22`;
    expect(parseDnatRule(text)).toEqual({ ...RULE, hostAddress: ip("192.168.1.100") });
  });

  it.each([
    "-p tcp -m tcp --dport 1122 -j DNAT --to-destination 192.168.122.11:22",
    '-p tcp -m tcp --dport 1122 -m comment --comment "x" -j DNAT --to-destination 192.168.122.11:22',
    '-p tcp -m tcp --dport 1122 -m comment --comment "kvmnatd:@jump" -j DNAT --to-destination 192.168.122.11:22',
    `-p tcp -m tcp --dport 1122 ${COMMENT} -j ACCEPT`,
    `-p tcp -m tcp --dport 1122 ${COMMENT} -j DNAT`,
    `-p tcp -m tcp --dport 1122 ${COMMENT} -j DNAT --to-destination 192.168.122.11-192.168.122.20`,
    `-p tcp ${COMMENT} -j DNAT --to-destination 192.168.122.11:22`,
    `-p icmp --dport 1 ${COMMENT} -j DNAT --to-destination 192.168.122.11:22`,
    `-d 10.0.0.0/8 -p tcp --dport 1122 ${COMMENT} -j DNAT --to-destination 192.168.122.11:22`,
    "",
  ])("is not recognized in text that kvmnatd cannot have written: %s", (text) => {
    expect(parseDnatRule(text)).toBeUndefined();
  });
});
