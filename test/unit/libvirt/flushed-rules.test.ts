import { expect, it } from "vitest";
import { findFlushedBridges, GONE_MS, trackLibvirtRules } from "../../../src/libvirt/flushed-rules.ts";
import type { BridgeWithLibvirtRules } from "../../../src/libvirt/flushed-rules.ts";
import { parseSave } from "../../../src/rules/parse-save.ts";
import type { Actual } from "../../../src/rules/ruleset.ts";
import { NOW } from "../../support/build-values.ts";

const REJECT = "-A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable\n";
const IPTABLES = parseSave(`*filter\n:LIBVIRT_FWI - [0:0]\n${REJECT}COMMIT\n`);
const NONE = parseSave("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n");
const NFT: Actual = {
  ...NONE,
  libvirt: new Map([["guest_input", [{ rule: 'oif "virbr0" counter reject', handle: 2 }]]]),
};
const UP = new Map([["virbr0", 7]]);
const CREATED_AGAIN = new Map([["virbr0", 9]]);
const SOON = NOW + GONE_MS - 1;
const LATER = NOW + GONE_MS;

type Step = readonly [atMs: number, rulesets: readonly Actual[], up: ReadonlyMap<string, number>];

/** The messages after the last of these passes. */
function messagesAfter(...steps: readonly Step[]): readonly string[] {
  let bridges: readonly BridgeWithLibvirtRules[] = [];
  let at = NOW;
  for (const [atMs, rulesets, up] of steps) {
    at = atMs;
    bridges = trackLibvirtRules(bridges, new Map([[4, rulesets]]), up, atMs);
  }
  return findFlushedBridges(bridges, at).problems.map(({ message }) => message);
}

const SEEN: Step = [NOW, [IPTABLES], UP];
const GONE: Step = [NOW, [NONE], UP];

it.each([
  ["in iptables", messagesAfter(SEEN, GONE, [LATER, [NONE], UP])],
  ["in its nftables table", messagesAfter([NOW, [NFT], UP], GONE, [LATER, [NONE], UP])],
])("reports libvirt's flushed rules %s, with what to do", (_what, messages) => {
  expect(messages).toEqual([
    expect.stringMatching(/^libvirt's IPv4 rules for virbr0 are gone.*systemctl restart libvirtd/),
  ]);
});

it.each([
  ["that never existed, as in forward mode open", messagesAfter(GONE, [LATER, [NONE], UP])],
  ["while libvirt rewrites them, which takes 0.4 s", messagesAfter(SEEN, GONE, [SOON, [NONE], UP])],
  ["that are back", messagesAfter(SEEN, GONE, [LATER, [IPTABLES], UP])],
  ["that are in the other backend now", messagesAfter(SEEN, [LATER, [NFT], UP], [LATER * 2, [NFT], UP])],
  ["that are in the other variant of iptables", messagesAfter(SEEN, GONE, [LATER, [NONE, IPTABLES], UP])],
  ["that went with the bridge", messagesAfter(SEEN, [NOW, [NONE], new Map()], [LATER, [NONE], UP])],
  ["of an earlier bridge with the same name", messagesAfter(SEEN, GONE, [LATER, [NONE], CREATED_AGAIN])],
  ["that cannot be read", messagesAfter(SEEN, [NOW, [], UP], [LATER, [], UP])],
])("reports nothing about libvirt's rules %s", (_what, messages) => {
  expect(messages).toEqual([]);
});

it("ends the wait for vanished rules, also when the clock is set back", () => {
  const seen = trackLibvirtRules([], new Map([[4, [IPTABLES]]]), UP, NOW);
  expect(findFlushedBridges(seen, NOW).wakeAtMs).toBeUndefined();
  const gone = trackLibvirtRules(seen, new Map([[4, [NONE]]]), UP, NOW);
  expect(findFlushedBridges(gone, NOW).wakeAtMs).toBe(LATER);
  const setBack = trackLibvirtRules(gone, new Map([[4, [NONE]]]), UP, NOW - 86_400_000);
  expect(findFlushedBridges(setBack, NOW - 86_400_000).wakeAtMs).toBe(LATER - 86_400_000);
});
