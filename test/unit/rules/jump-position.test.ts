import { expect, it } from "vitest";
import { findObstacles } from "../../../src/rules/jump-position.ts";
import type { Chains, Jump } from "../../../src/rules/ruleset.ts";

const JUMP: Jump = {
  table: "filter",
  chain: "FORWARD",
  rule: '-m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD',
  mustPrecedeRejectsFor: ["virbr0"],
  mustPrecedeAcceptsFor: undefined,
};
const GUARD: Jump = {
  table: "raw",
  chain: "PREROUTING",
  rule: '-d 127.0.0.0/8 -i virbr0 -m comment --comment "kvmnatd:@loopback-guard" -j DROP',
  mustPrecedeRejectsFor: undefined,
  mustPrecedeAcceptsFor: "virbr0",
};
const CHAINS: Chains = new Map([
  ["REJECTS", ["-j REJECT"]],
  ["ACCEPTS-FIRST", ["-j ACCEPT", "-j REJECT"]],
  ["RETURNS-FIRST", ["-j RETURN", "-j REJECT"]],
  ["REJECTS-OTHER-BRIDGE", ["-o virbr1 -j REJECT"]],
  ["NESTED", ["-p tcp -j ACCEPT", "-j REJECTS"]],
  ["EMPTY", []],
  ["GOTO", ["-g RETURNS-FIRST"]],
  ["LOOP", ["-j LOOP"]],
  ["KVMNATD-FWD", ["-j REJECT"]],
]);

it.each([
  ["-j REJECT", true],
  ["-j REJECT --reject-with icmp-port-unreachable", true],
  ["-j DROP", true],
  ['-m comment --comment "deny" -j DROP', true],
  ["-o virbr0 -j REJECT", true],
  ["-o virbr+ -j REJECT", true],
  ["! -o eth0 -j REJECT", true],
  ["-j LIBVIRT_FWI", true],
  ["-j REJECTS", true],
  ["-g REJECTS", true],
  ["-o virbr0 -j REJECTS", true],
  ["-j NESTED", true],
  ["-o virbr1 -j REJECT", false],
  ["! -o virbr0 -j REJECT", false],
  ["-s 10.0.0.0/8 -j DROP", false],
  ["-p tcp -m tcp --dport 22 -j REJECT", false],
  ["-m conntrack --ctstate INVALID -j DROP", false],
  ["-i eth0 -o virbr0 -j REJECT", false],
  ["-j ACCEPT", false],
  ["-j LOG", false],
  ["-j ACCEPTS-FIRST", false],
  ["-j RETURNS-FIRST", false],
  ["-j REJECTS-OTHER-BRIDGE", false],
  ["-j EMPTY", false],
  ["-g EMPTY", false],
  ["-j LOOP", false],
  ["-j MISSING", false],
  ["-j KVMNATD-FWD", false],
])("`%s` in FORWARD is an obstacle to our jump: %s", (rule, expected) => {
  expect(findObstacles(JUMP, CHAINS, false)(rule)).toBe(expected);
});

it.each([
  ["-g EMPTY", true],
  ["-j GOTO", false],
  ["-j RETURN", true],
  ["-j RETURNS-FIRST", false],
  ["-j ACCEPT", false],
])("`%s` in FORWARD with the policy DROP is an obstacle to our jump: %s", (rule, expected) => {
  expect(findObstacles(JUMP, CHAINS, true)(rule)).toBe(expected);
});

it.each([
  ["-j ACCEPT", true],
  ["-j RETURN", true],
  ["-j THEIRS", true],
  ["-i virbr0 -j ACCEPT", true],
  ["-i virbr+ -j ACCEPT", true],
  ["! -i eth0 -p tcp -j ACCEPT", true],
  ["-i eth0 -j ACCEPT", false],
  ["! -i virbr0 -j ACCEPT", false],
  ["-j DROP", false],
  ["-j LOG", false],
  ["-p tcp -m tcp --dport 80 -j CT --notrack", false],
])("`%s` in raw PREROUTING is an obstacle to the guard of virbr0: %s", (rule, expected) => {
  expect(findObstacles(GUARD, CHAINS, false)(rule)).toBe(expected);
});

it("has no obstacle when the jump may stand anywhere", () => {
  const anywhere: Jump = { ...JUMP, mustPrecedeRejectsFor: undefined };
  expect(findObstacles(anywhere, CHAINS, true)("-j REJECT")).toBe(false);
});
