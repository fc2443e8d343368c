import { describe, expect, it } from "vitest";
import type { Guest } from "../../../src/config/port-map.ts";
import type { Listen } from "../../../src/config/values/listen-address.ts";
import { resolveForwards } from "../../../src/forwards/resolve.ts";
import type { Incumbent } from "../../../src/identity/lookup.ts";
import type { Network } from "../../../src/leases/network.ts";
import {
  buildAuditEntries,
  describeFailures,
  describeGuests,
  describeIncumbents,
} from "../../../src/log/audit-entries.ts";
import type { LogEntry, LoggedGuests } from "../../../src/log/audit-entries.ts";
import { guestKey } from "../../../src/rules/ownership.ts";
import {
  guest,
  incumbent,
  ip,
  lease,
  MAC_A,
  MAC_B,
  network,
  portMap,
  resolveInputs,
} from "../../support/build-values.ts";

const AT = "192.168.122.11";
const HOST = new Map([["eth0", [ip("198.51.100.1")]]]);
const REQUEST = { number: 1, trigger: "test" };
const laptop = guest("laptop", { kind: "hostname", hostname: "laptop" });
const at = (address: string): Listen => ({ kind: "address", address: ip(address) });
const printer = guest("printer", { kind: "address", address: ip("192.168.22.50") });
const named = (address: string, mac: typeof MAC_A): ReturnType<typeof lease> =>
  lease(address, mac, { hostname: "laptop" });
const held = incumbent(AT, MAC_A, { guest: "laptop", identity: "hostname=laptop" });

function locate(who: Guest, on: Network, incumbents: readonly Incumbent[] = []): LoggedGuests {
  return describeGuests(resolveForwards(portMap([who]), incumbents, resolveInputs([on], HOST)).forwards);
}

function build(before: LoggedGuests, now: LoggedGuests): readonly LogEntry[] {
  return buildAuditEntries({ before, now, changes: [] }, REQUEST);
}

describe("a guest whose address did not change", () => {
  it.each<[string, Guest, Network, readonly Incumbent[], Partial<LogEntry>, RegExp]>([
    [
      "is logged for debugging while its network is down, because the network has a line of its own",
      printer,
      network({ subnets: [] }),
      [],
      { level: "debug", event: "guest-status-changed" },
      /^printer: pending; network virbr0 is down \(test\)$/,
    ],
    [
      "is logged when its address in the config cannot be a guest's",
      printer,
      network(),
      [],
      { level: "info", event: "guest-status-changed" },
      /^printer: pending; address 192\.168\.22\.50: outside/,
    ],
    [
      "is a warning when two guests claim its name",
      laptop,
      network({ leases: [named(AT, MAC_A), named("192.168.122.12", MAC_B)] }),
      [],
      { level: "warn", event: "forward-conflict" },
      /^laptop: pending; conflict: .* claim this name/,
    ],
    [
      "is a warning when another guest claims the name of the incumbent",
      laptop,
      network({ leases: [named(AT, MAC_A), named("192.168.122.12", MAC_B)] }),
      [held],
      { level: "warn", event: "forward-conflict" },
      /^laptop: forwarded to 192\.168\.122\.11; conflict: the name is also claimed/,
    ],
    [
      "is a warning about that name also while the host lacks an address that its port is published on",
      guest("laptop", laptop.identity, [{ listen: [at("198.51.100.1"), at("198.51.100.9")] }]),
      network({ leases: [named(AT, MAC_A), named("192.168.122.12", MAC_B)] }),
      [held],
      { level: "warn", event: "forward-conflict" },
      /^laptop: forwarded to 192\.168\.122\.11; address 198\.51\.100\.9: .*; conflict: the name/,
    ],
  ])("%s", (_what, who, on, incumbents, entry, message) => {
    const before = describeIncumbents(incumbents);
    const now = locate(who, on, incumbents);
    expect(build(before, now)).toEqual([
      expect.objectContaining({ ...entry, message: expect.stringMatching(message) as string }),
    ]);
    expect(build(now, now)).toEqual([]);
  });

  it("is logged for debugging when the kernel did not take its rules, because that has a line of its own", () => {
    const before = describeIncumbents([held]);
    const now = locate(laptop, network({ leases: [named(AT, MAC_A)] }), [held]);
    const failing = new Map([[guestKey(4, "laptop"), "rejected"]]);
    expect(build(before, describeFailures(now, before, failing))).toMatchObject([
      { level: "debug", message: `laptop: forwarded to ${AT}; degraded: rejected (test)` },
    ]);
  });
});

describe("a guest whose address changed", () => {
  const NONE: LoggedGuests = new Map();
  const active = describeIncumbents([held]);
  const pending = locate(laptop, network());
  const moved = locate(laptop, network({ leases: [named("192.168.122.12", MAC_B)] }));

  it.each<[string, LoggedGuests, LoggedGuests, Partial<LogEntry>]>([
    [
      "was pending",
      pending,
      active,
      { event: "forward-active", message: `laptop: forwarded to ${AT} (test)` },
    ],
    [
      "had another address",
      active,
      moved,
      { event: "forward-moved", message: `laptop: ${AT} -> 192.168.122.12 (test)` },
    ],
    [
      "has none any more",
      active,
      pending,
      {
        event: "forward-pending",
        message: `laptop: ${AT} -> none; no live lease with hostname "laptop" (test)`,
      },
    ],
    [
      "is not in the config any more",
      active,
      NONE,
      { event: "guest-removed", message: "laptop: no longer published (test)" },
    ],
  ])("%s", (_what, before, now, entry) => {
    expect(build(before, now)).toEqual([
      { ...entry, level: "info", guest: "laptop", pass: 1, reason: "test" },
    ]);
  });
});
