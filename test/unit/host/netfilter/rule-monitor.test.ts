import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { FollowCommand, Follower } from "../../../../src/host/exec/follow-command.ts";
import { createRuleMonitor } from "../../../../src/host/netfilter/rule-monitor.ts";
import type { RuleMonitor } from "../../../../src/host/netfilter/rule-monitor.ts";
import type { Family } from "../../../../src/net/address.ts";

const ADDED = "add rule ip nat POSTROUTING ip saddr 172.17.0.2 counter masquerade # handle 4";
const REMOVED = "delete rule ip nat POSTROUTING handle 4";
const LOST = "# ERROR: We lost some netlink events!";
const RECHECK_MS = 10_000;

let monitor: RuleMonitor;
/** What the monitor passes its events to. */
let follower: Follower;
let reported: (Family | undefined)[];

beforeEach(async () => {
  vi.useFakeTimers();
  reported = [];
  const follow: FollowCommand = async (_, given) => {
    follower = given;
    await given.onRun(0, AbortSignal.abort());
  };
  monitor = createRuleMonitor(follow);
  const watcher = { onChange: (family?: Family) => void reported.push(family), onState: () => undefined };
  await monitor.watch(watcher, AbortSignal.abort());
});
afterEach(() => vi.useRealTimers());

/** @returns what the last of these events reports */
function feed(...lines: readonly string[]): readonly (Family | undefined)[] {
  for (const line of lines) {
    reported = [];
    follower.onLine(line);
  }
  return reported;
}

describe("the addition of a harmless rule", () => {
  it("is reported with its family after ten seconds", async () => {
    expect(feed(ADDED)).toEqual([]);
    feed(ADDED.replace("handle 4", "handle 5"));
    await vi.advanceTimersByTimeAsync(RECHECK_MS);
    expect(reported).toEqual([4]);
  });
});

describe("the removal of a rule", () => {
  it("is not reported when its addition was harmless", () => {
    expect(feed(ADDED, REMOVED)).toEqual([]);
    expect(feed(ADDED, "delete rule ip6 nat POSTROUTING handle 4")).toEqual([6]);
    expect(feed(ADDED, "delete rule ip filter FORWARD handle 4")).toEqual([4]);
  });

  it("is reported when the handle may be another rule's", () => {
    expect(feed(ADDED, REMOVED, REMOVED)).toEqual([4]);
  });

  it.each([
    "add rule ip nat POSTROUTING counter jump KVMNATD-SNAT # handle 4",
    "replace rule ip nat POSTROUTING counter masquerade # handle 4",
  ])("is reported after a relevant event of its handle: %s", (line) => {
    expect(feed(ADDED, line)).toEqual([4]);
    expect(feed(REMOVED)).toEqual([4]);
  });

  it("is reported when the rule may have been kvmnatd's guard", () => {
    const guard =
      'insert rule ip raw PREROUTING iifname "virbr0" ip daddr 127.0.0.0/8  counter drop # handle 4';
    expect(feed(guard, "delete rule ip raw PREROUTING handle 4")).toEqual([4]);
  });

  it("is reported after kvmnatd changed the rule", async () => {
    feed(ADDED);
    await monitor.expecting(1, () => Promise.resolve(follower.onLine(REMOVED)));
    await vi.advanceTimersByTimeAsync(1000);
    expect(feed(REMOVED)).toEqual([4]);
  });

  it("is reported after lost events, and after a restart of the monitor", async () => {
    expect(feed(ADDED, LOST)).toContain(undefined);
    expect(feed(REMOVED)).toEqual([4]);
    feed(ADDED);
    await follower.onRun(0, AbortSignal.abort());
    expect(feed(REMOVED)).toEqual([4]);
  });

  it("is reported when more rules were added than the monitor remembers", () => {
    const many = Array.from(
      { length: 10_001 },
      (_, index) => `add rule ip nat POSTROUTING counter masquerade # handle ${index + 10}`,
    );
    expect(feed(ADDED, ...many, REMOVED)).toEqual([4]);
  });

  it("is reported without a family in libvirt's table, which is not iptables'", () => {
    expect(feed("delete rule ip libvirt_network forward handle 3")).toEqual([undefined]);
  });
});
