import { describe, expect, it } from "vitest";
import { isOwnedRule, ruleKey, splitOptions, targetOf } from "../../../src/rules/ruleset.ts";

/** Captured: `iptables-save`, iptables 1.8.9; the same of -nft and -legacy. In quotes is only what has an odd character. */
describe("options and their values", () => {
  it.each([
    ["REJECT", '-m comment --comment "--final drop" -j REJECT --reject-with icmp-port-unreachable'],
    ["REJECT", "-m comment --comment -j -j REJECT --reject-with icmp-port-unreachable"],
    ["REJECT", "-m comment --comment -d -j REJECT --reject-with icmp-port-unreachable"],
    ["REJECT", '-m comment --comment "-drop everything else" -j REJECT'],
    ["REJECT", '-m comment --comment "!" -j REJECT --reject-with icmp-port-unreachable'],
    ["LOG", '-p tcp -j LOG --log-prefix "-j DROP "'],
    ["LOG", "-p tcp -j LOG --log-prefix -jDROP"],
    ["ACCEPT", '-m string --string "-j" --algo bm -j ACCEPT'],
    ["ACCEPT", "-m string --string -j --algo bm -j ACCEPT"],
    ["ACCEPT", "-m recent --set --name -j --mask 255.255.255.255 --rsource -j ACCEPT"],
    ["DROP", "-i -j -o -g -j DROP"],
    ["DROP", '-i "x -m comment --comment "a b" -j DROP'],
    ["DROP", '-m comment --comment "x\n-j ACCEPT" -j DROP'],
  ])("give the target %s: %s", (target, rule) => {
    expect(targetOf(rule)).toBe(target);
  });

  it("lose their quotes and backslashes", () => {
    expect(splitOptions(String.raw`! -s 10.0.0.0/8 -m comment --comment "it\'s \"q\" \\" -j DROP`)).toEqual([
      { negated: true, flag: "-s", values: ["10.0.0.0/8"] },
      { negated: false, flag: "-m", values: ["comment"] },
      { negated: false, flag: "--comment", values: [String.raw`it's "q" \ `.trimEnd()] },
      { negated: false, flag: "-j", values: ["DROP"] },
    ]);
  });

  it('a quoted "!" is a value and not a negation', () => {
    expect(splitOptions('-m comment --comment "!" -d 10.0.0.1/32')[2]).toEqual({
      negated: false,
      flag: "-d",
      values: ["10.0.0.1/32"],
    });
  });
});

describe("the key of a rule", () => {
  const JUMP = '-m addrtype --dst-type LOCAL -m comment --comment "kvmnatd:@jump" -j KVMNATD-DNAT';
  it.each([
    ["-p tcp --dport 22 -j ACCEPT", "-p tcp -m tcp --dport 22 -j ACCEPT"],
    ["-d 10.0.0.1/32 -p udp -m udp --dport 53 -j ACCEPT", "-p udp -d 10.0.0.1 --dport 53 -m udp -j ACCEPT"],
    ["-d fd00::1/128 -j ACCEPT", "-d fd00::1 -j ACCEPT"],
    [JUMP, '-m comment --comment "kvmnatd:@jump" -m addrtype --dst-type LOCAL -j KVMNATD-DNAT'],
  ])("is the same for %s and %s", (one, other) => {
    expect(ruleKey(one)).toBe(ruleKey(other));
  });

  it.each([
    [JUMP, JUMP.replace(" -m comment", " -m socket -m comment")],
    [JUMP, JUMP.replace(" -j", " -m time --datestop 2038-01-19T03:14:07 -j")],
    ["-p tcp -m tcp --dport 22 -j ACCEPT", "-p tcp -m tcp --dport 22 -m socket -j ACCEPT"],
    ["-d 10.0.0.1/32 -j ACCEPT", "! -d 10.0.0.1/32 -j ACCEPT"],
  ])("differs between %s and %s", (one, other) => {
    expect(ruleKey(one)).not.toBe(ruleKey(other));
  });
});

describe("a rule in a foreign chain", () => {
  it.each([
    '-m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD',
    '-m comment --comment "kvmnatd:@jump" -j ACCEPT',
    '-d 127.0.0.0/8 -i virbr0 -m comment --comment "kvmnatd:@loopback-guard" -j ACCEPT',
    "-s 10.0.0.0/8 -g KVMNATD-FWD",
  ])("is ours, even if another program edited it: %s", (rule) => {
    expect(isOwnedRule(rule)).toBe(true);
  });

  it.each([
    '-m comment --comment "kvmnatd: my ssh limiter" -m recent --set --name x -j RETURN',
    '-m comment --comment "kvmnatd:@jump-host" -j ACCEPT',
    '-m comment --comment "kvmnatd:web 52:54:00:6c:3c:01" -j DNAT --to-destination 192.168.122.11:22',
    '-m comment --comment "see -j KVMNATD-FWD and kvmnatd:@jump" -j ACCEPT',
    '-m comment --comment "x\nkvmnatd:@jump" -j ACCEPT',
    "-j KVMNATDX",
  ])("is foreign: %s", (rule) => {
    expect(isOwnedRule(rule)).toBe(false);
  });
});
