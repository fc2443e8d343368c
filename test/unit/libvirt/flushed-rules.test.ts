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
const MADE_ANEW = new Map([["virbr0", 9]]);
const SOON = NOW + GONE_MS - 1;
const LATER = NOW + GONE_MS;

type Step = readonly [atMs: number, sides: readonly Actual[], up: ReadonlyMap<string, number>];

/** What is told after the last of these passes. */
function told(...steps: readonly Step[]): readonly string[] {
  let guarded: readonly BridgeWithLibvirtRules[] = [];
  let at = NOW;
  for (const [atMs, sides, up] of steps) {
    at = atMs;
    guarded = trackLibvirtRules(guarded, new Map([[4, sides]]), up, atMs);
  }
  return findFlushedBridges(guarded, at).problems.map(({ message }) => message);
}

const SEEN: Step = [NOW, [IPTABLES], UP];
const GONE: Step = [NOW, [NONE], UP];

it.each([
  ["are gone", told(SEEN, GONE, [LATER, [NONE], UP])],
  ["of its nftables table are gone", told([NOW, [NFT], UP], GONE, [LATER, [NONE], UP])],
])("libvirt's rules that were there and %s are told, with what to do", (_what, messages) => {
  expect(messages).toEqual([
    expect.stringMatching(/^libvirt's IPv4 rules for virbr0 are gone.*systemctl restart libvirtd/),
  ]);
});

it.each([
  ["never were there, as of a network in forward mode open", told(GONE, [LATER, [NONE], UP])],
  ["are rewritten, which takes libvirt 0.4 s", told(SEEN, GONE, [SOON, [NONE], UP])],
  ["are back", told(SEEN, GONE, [LATER, [IPTABLES], UP])],
  ["are in the other backend now", told(SEEN, [LATER, [NFT], UP], [LATER * 2, [NFT], UP])],
  ["are in the other variant of iptables", told(SEEN, GONE, [LATER, [NONE, IPTABLES], UP])],
  ["went with the bridge", told(SEEN, [NOW, [NONE], new Map()], [LATER, [NONE], UP])],
  ["were those of a bridge before this one", told(SEEN, GONE, [LATER, [NONE], MADE_ANEW])],
  ["cannot be read", told(SEEN, [NOW, [], UP], [LATER, [], UP])],
])("nothing is told of libvirt's rules that %s", (_what, messages) => {
  expect(messages).toEqual([]);
});

it("the wait until they are certainly gone has an end, whatever happens to the clock", () => {
  const seen = trackLibvirtRules([], new Map([[4, [IPTABLES]]]), UP, NOW);
  expect(findFlushedBridges(seen, NOW).wakeAtMs).toBeUndefined();
  const gone = trackLibvirtRules(seen, new Map([[4, [NONE]]]), UP, NOW);
  expect(findFlushedBridges(gone, NOW).wakeAtMs).toBe(LATER);
  const setBack = trackLibvirtRules(gone, new Map([[4, [NONE]]]), UP, NOW - 86_400_000);
  expect(findFlushedBridges(setBack, NOW - 86_400_000).wakeAtMs).toBe(LATER - 86_400_000);
});
