import { describe, expect, it } from "vitest";
import type { Mac, HostAddresses } from "../../../src/net/address.ts";
import type { ProbeResults, Incumbent } from "../../../src/identity/lookup.ts";
import { networkAddressKey } from "../../../src/leases/lease-index.ts";
import type { Lease } from "../../../src/leases/lease.ts";
import type { Network } from "../../../src/leases/network.ts";
import type { Guest, PortMap } from "../../../src/config/port-map.ts";
import { resolveForwards } from "../../../src/forwards/resolve.ts";
import type { Resolution, ResolveInputs } from "../../../src/forwards/resolve.ts";
import {
  domain,
  guest,
  incumbent,
  ip,
  lease,
  mac,
  MAC_A,
  MAC_B,
  MAC_C,
  network,
  NOW,
  portMap,
  resolveInputs,
} from "../../support/build-values.ts";
import type { Listen } from "../../../src/config/values/listen-address.ts";

const HOST: HostAddresses = new Map([
  ["lo", [ip("127.0.0.1")]],
  ["eth0", [ip("192.168.1.100"), ip("fd01::100")]],
]);
const web = guest("web", domain("web"));
const running = { domains: [{ bridge: "virbr0", domain: "web", macs: [MAC_A] }] };

function resolve(
  guests: readonly Guest[],
  networks: readonly Network[],
  incumbents: readonly Incumbent[] = [],
  more: Partial<ResolveInputs> = {},
): Resolution {
  return resolveMap(portMap(guests), networks, incumbents, more);
}

function resolveMap(
  map: PortMap,
  networks: readonly Network[],
  incumbents: readonly Incumbent[] = [],
  more: Partial<ResolveInputs> = {},
): Resolution {
  return resolveForwards(map, incumbents, resolveInputs(networks, HOST, more));
}

/** Which MAC answers at which address, on virbr0 by default. */
function answersAt(
  ...answers: readonly (readonly [address: string, mac: Mac | undefined, bridge?: string])[]
): ProbeResults {
  return new Map(
    answers.map(([address, owner, bridge = "virbr0"]) => [
      networkAddressKey({ bridge, address: ip(address) }),
      owner,
    ]),
  );
}

/** `address` or `pending`, and why. */
function outcome(resolution: Resolution, index = 0): { readonly at: string; readonly why: string } {
  const forward = resolution.forwards[index];
  return { at: forward?.target?.address ?? "pending", why: forward?.why?.text ?? "" };
}

describe("domain", () => {
  it("is found by the lease of the MAC that libvirt lists", () => {
    const up = network({
      ...running,
      leases: [lease("192.168.122.7", MAC_B), lease("192.168.122.11", MAC_A)],
    });
    expect(outcome(resolve([web], [up]))).toEqual({ at: "192.168.122.11", why: "" });
  });

  it("is off when libvirt does not list it, though its lease is live", () => {
    const up = network({ leases: [lease("192.168.122.11", MAC_A)] });
    expect(outcome(resolve([web], [up]))).toMatchObject({
      at: "pending",
      why: expect.stringContaining("guest is off"),
    });
  });

  it("is pending when its MAC has a lease only on a bridge that it is not plugged into", () => {
    const plugged = network({ ...running });
    const subnet = { cidr: { family: 4 as const, base: ip("10.1.0.0"), prefix: 24 }, own: ip("10.1.0.1") };
    const other = network({
      bridge: "virbr1",
      subnets: [subnet],
      leases: [lease("10.1.0.5", MAC_A, { bridge: "virbr1" })],
    });
    expect(outcome(resolve([web], [plugged, other])).at).toBe("pending");
  });

  it("keeps the NIC that the forward leads to when it has two", () => {
    const domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A, MAC_B] }];
    const leases = [lease("192.168.122.11", MAC_A), lease("192.168.122.12", MAC_B)];
    const held = incumbent("192.168.122.12", MAC_B);
    expect(outcome(resolve([web], [network({ domains, leases })])).at).toBe("192.168.122.11");
    expect(outcome(resolve([web], [network({ domains, leases })], [held])).at).toBe("192.168.122.12");
  });
});

describe("the lease of the incumbent's NIC vanished, and another NIC has a lease", () => {
  const domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A, MAC_B] }];
  const other = lease("192.168.122.12", MAC_B, { expiresAtMs: NOW + 7_200_000 });
  const up = network({ domains, leases: [other] });
  const at = ip("192.168.122.11");
  const expiresAtMs = NOW + 3_600_000;
  const held = incumbent(at, MAC_A, { expiresAtMs });
  const answering = (answer: Mac | undefined, nowMs = NOW): Resolution =>
    resolve([web], [up], [held], { nowMs, probeResults: answersAt([at, answer]) });

  it("probes the incumbent and keeps it while it answers, until the end of its lease", () => {
    expect(resolve([web], [up], [held]).probes).toContainEqual({ bridge: "virbr0", address: at });
    const kept = answering(MAC_A);
    expect(outcome(kept)).toEqual({
      at,
      why: expect.stringContaining(`vanished, but ${MAC_A} still answers`),
    });
    expect(kept.incumbents).toMatchObject([{ address: at, mac: MAC_A, expiresAtMs }]);
    expect(kept.wakeAtMs).toBeLessThanOrEqual(NOW + 5000);
    const back = network({ domains, leases: [other, lease(at, MAC_A)] });
    expect(outcome(resolve([web], [back], kept.incumbents))).toEqual({ at, why: "" });
  });

  it.each([
    ["is silent", undefined, NOW],
    ["answers with another MAC", MAC_C, NOW],
    ["has reached the end of its lease", MAC_A, expiresAtMs],
  ])("moves to the other NIC when the incumbent %s", (_what, answer, nowMs) => {
    expect(outcome(answering(answer, nowMs)).at).toBe(other.address);
  });
});

describe("several live leases of one MAC", () => {
  it.each([
    ["the latest expiry", NOW + 1000, NOW + 2000, "192.168.122.12"],
    ["an infinite lease", undefined, NOW + 2000, "192.168.122.11"],
    ["the lower address of equal leases", NOW + 1000, NOW + 1000, "192.168.122.11"],
  ])("chooses %s", (_what, first, second, expected) => {
    const one = lease("192.168.122.11", MAC_A, { expiresAtMs: first });
    const two = lease("192.168.122.12", MAC_A, { expiresAtMs: second });
    for (const leases of [
      [one, two],
      [two, one],
    ])
      expect(outcome(resolve([web], [network({ ...running, leases })])).at).toBe(expected);
  });
});

describe("a guest that answers at two leases and renews them alternately", () => {
  const [ONE, TWO] = ["192.168.122.11", "192.168.122.77"] as const;

  /** @param answering where it answers each time @returns where its forward leads each time */
  function flap(
    times: number,
    everyMs: number,
    answering: readonly string[] = [ONE, TWO],
  ): readonly string[] {
    let incumbents: readonly Incumbent[] = [];
    return Array.from({ length: times }, (_, index) => {
      const nowMs = NOW + index * everyMs;
      const [older, newer] = index % 2 === 0 ? [TWO, ONE] : [ONE, TWO];
      const leases = [
        lease(older, MAC_A, { expiresAtMs: nowMs + 3_600_000 }),
        lease(newer, MAC_A, { expiresAtMs: nowMs + 3_601_000 }),
      ];
      const answers = answersAt(...answering.map((address) => [address, MAC_A] as const));
      const resolution = resolve([web], [network({ ...running, leases })], incumbents, {
        nowMs,
        probeResults: answers,
      });
      ({ incumbents } = resolution);
      if (index === times - 1 && times > 10)
        expect(outcome(resolution).why).toMatch(/^it moves again and again/);
      return outcome(resolution).at;
    });
  }

  it("follows the newest lease six times within a minute, then stays", () => {
    expect(flap(12, 1000)).toEqual([ONE, TWO, ONE, TWO, ONE, TWO, ONE, ONE, ONE, ONE, ONE, ONE]);
  });

  it("keeps following a guest that moves every 15 seconds", () => {
    expect(flap(10, 15_000)).toEqual([ONE, TWO, ONE, TWO, ONE, TWO, ONE, TWO, ONE, TWO]);
  });

  it("moves when the guest no longer answers at its address", () => {
    const times = flap(9, 1000, [TWO]);
    expect(times.slice(1)).toEqual(Array.from({ length: 8 }, () => TWO));
  });
});

describe("a lease that the guest did not have before", () => {
  const at = ip("192.168.122.99");
  const own = ip("192.168.122.11");
  const newest = lease(at, MAC_A, { expiresAtMs: NOW + 7_200_000 });
  type Answer = readonly [address: string, mac: Mac | undefined];
  const answering = (
    leases: readonly Lease[],
    answers: readonly Answer[],
    { by = web, incumbents = [], nowMs = NOW, domains = running.domains }: Partial<Asked> = {},
  ): Resolution =>
    resolve([by], [network({ domains, leases })], incumbents, { nowMs, probeResults: answersAt(...answers) });
  interface Asked {
    readonly by: Guest;
    readonly incumbents: readonly Incumbent[];
    readonly nowMs: number;
    readonly domains: Network["domains"];
  }

  it.each([
    ["domain", web, newest],
    ["mac", guest("web", { kind: "mac", mac: MAC_A }), newest],
    ["hostname", guest("web", { kind: "hostname", hostname: "web" }), { ...newest, hostname: "web" }],
    [
      "IPv6",
      guest("web", domain("web"), [{ listen: [{ kind: "any", family: 6 }] }]),
      { ...newest, address: ip("fd00:122::99") },
    ],
  ])(
    "is pending, with the reason, and probed again when another MAC answers there (%s)",
    (_what, by, only) => {
      const { address } = only;
      expect(answering([only], [], { by }).probes).toEqual([{ bridge: "virbr0", address }]);
      const foreign = answering([only], [[address, MAC_B]], { by });
      const { at: pending, why } = outcome(foreign);
      expect(pending).toBe("pending");
      expect(why).toContain(`${address} is leased to ${MAC_A}, but ${MAC_B} answers there`);
      expect(foreign.wakeAtMs).toBe(NOW + 1000);
      expect(outcome(answering([only], [[address, MAC_A]], { by })).at).toBe(address);
    },
  );

  it("is published and not probed again when its own MAC answers there", () => {
    const found = answering([newest], [[at, MAC_A]]);
    expect(outcome(found)).toEqual({ at, why: "" });
    expect(found.wakeAtMs).toBe(newest.expiresAtMs);
    expect(answering([newest], [], { incumbents: found.incumbents }).probes).toEqual([]);
  });

  it("is published when another NIC of the guest answers there on the same bridge", () => {
    const domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A, MAC_B] }];
    const by = guest("web", { kind: "mac", mac: MAC_A });
    expect(outcome(answering([newest], [[at, MAC_B]], { by, domains }))).toEqual({ at, why: "" });
    expect(outcome(answering([newest], [[at, MAC_C]], { by, domains })).at).toBe("pending");
  });

  it("is published at once without a note when no neighbour answers, and probed ever more rarely", () => {
    let nowMs = NOW;
    let incumbents: readonly Incumbent[] = [];
    const askedAtMs: number[] = [];
    const leases = [lease(at, MAC_A, { expiresAtMs: NOW + 86_400_000 })];
    const wakes = (): number | undefined => {
      const { probes } = answering(leases, [], { incumbents, nowMs });
      if (probes.length > 0) askedAtMs.push(nowMs - NOW);
      const resolution = answering(leases, [[at, undefined]], { incumbents, nowMs });
      expect(outcome(resolution)).toEqual({ at, why: "" });
      ({ incumbents } = resolution);
      return resolution.wakeAtMs;
    };
    // For a minute it wakes the daemon; then it is probed when a pass is made anyway, at most every five seconds.
    for (let wake = wakes(); wake !== undefined && wake < NOW + 86_400_000; wake = wakes()) nowMs = wake;
    expect(askedAtMs.slice(0, 9)).toEqual([0, 50, 100, 200, 400, 800, 1600, 3200, 6400]);
    expect(askedAtMs.length).toBeLessThan(22);
    expect(nowMs - NOW).toBeLessThan(70_000);
    const before = askedAtMs.length;
    for (let pass = 0; pass < 120; pass += 1) {
      nowMs += 2500;
      wakes();
    }
    expect(askedAtMs.length - before).toBe(60);
    expect(outcome(answering(leases, [[at, MAC_B]], { incumbents, nowMs: nowMs + 300_000 })).at).toBe(
      "pending",
    );
  });

  it("is not chosen among several when another MAC answers there", () => {
    const leases = [newest, lease(own, MAC_A)];
    const silent = answering(leases, [
      [at, MAC_B],
      [own, undefined],
    ]);
    expect(outcome(silent)).toEqual({
      at: own,
      why: `unverified: ${MAC_A} does not answer at ${own}; ${at} passed over: ${MAC_B} answers there`,
    });
    const none = answering(leases, [
      [at, MAC_B],
      [own, MAC_C],
    ]);
    expect(outcome(none).at).toBe("pending");
    expect(outcome(none).why).toContain(`${at} is leased to ${MAC_A}, but ${MAC_B} answers there`);
  });

  const held = incumbent(own, MAC_A);

  it("does not replace the incumbent's address when another MAC answers at the new one", () => {
    expect(answering([lease(own, MAC_A)], [], { incumbents: [held] }).probes).toEqual([]);
    const answers: readonly Answer[] = [
      [at, MAC_B],
      [own, undefined],
    ];
    expect(outcome(answering([newest, lease(own, MAC_A)], answers, { incumbents: [held] })).at).toBe(own);
    const released = answering([newest], answers, { incumbents: [held] });
    expect(outcome(released)).toEqual({
      at: own,
      why: expect.stringMatching(/but .* answers there.*; lingers/),
    });
    expect(released.wakeAtMs).toBe(NOW + 50);
    const over = answering([newest], answers, { incumbents: released.incumbents, nowMs: NOW + 5000 });
    expect(outcome(over).at).toBe("pending");
    expect(over.wakeAtMs).toBe(NOW + 6000);
  });

  it("is dropped when another MAC begins to answer there", () => {
    const { incumbents } = answering([newest], [[at, undefined]]);
    const later = answering([newest], [[at, MAC_B]], { incumbents, nowMs: NOW + 50 });
    expect(outcome(later).at).toBe("pending");
    const still = answering([newest], [[at, MAC_B]], { incumbents: later.incumbents, nowMs: NOW + 1050 });
    expect(outcome(still).at).toBe("pending");
  });

  it("probes the incumbent's only lease after another MAC answered there", () => {
    const answers: readonly Answer[] = [
      [at, MAC_B],
      [own, MAC_B],
    ];
    const both = answering([newest, lease(own, MAC_A)], answers, { incumbents: [held] });
    expect(outcome(both).at).toBe("pending");
    expect(both.wakeAtMs).toBe(NOW + 50);
    const alone = answering([lease(own, MAC_A)], answers, { incumbents: both.incumbents, nowMs: NOW + 10 });
    expect(outcome(alone).at).toBe("pending");
    expect(alone.probes).toEqual([{ bridge: "virbr0", address: own }]);
  });

  it("is replaced by the lease of another NIC when another MAC answers there", () => {
    const domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A, MAC_B] }];
    const leases = [newest, lease(own, MAC_B)];
    expect(answering(leases, [], { domains }).probes).toHaveLength(2);
    expect(
      outcome(
        answering(
          leases,
          [
            [at, MAC_C],
            [own, MAC_B],
          ],
          { domains },
        ),
      ).at,
    ).toBe(own);
  });
});

describe("a guest on another network uses the same MAC and has a lease with it there", () => {
  const subnet = { cidr: { family: 4 as const, base: ip("10.1.0.0"), prefix: 24 }, own: ip("10.1.0.1") };
  const own = ip("192.168.122.11");
  const taken = ip("10.1.0.5");
  const card = (bridge: string, owner: Mac, of = "web"): NonNullable<Network["domains"]>[number] => ({
    bridge,
    domain: of,
    macs: [owner],
  });
  const ownLease = lease(own, MAC_A);
  const forged = lease(taken, MAC_A, { bridge: "virbr1", hostname: "web", expiresAtMs: NOW + 7_200_000 });
  const first = (more: Partial<Network> = {}): Network => network({ leases: [ownLease], ...more });
  const second = (more: Partial<Network> = {}): Network =>
    network({ bridge: "virbr1", subnets: [subnet], leases: [forged], ...more });
  const answers = answersAt([own, undefined], [taken, MAC_A, "virbr1"]);
  const byMac = guest("web", { kind: "mac", mac: MAC_A });
  const byName = guest("web", { kind: "hostname", hostname: "web" });
  const at = (by: Guest, networks: readonly Network[], incumbents: readonly Incumbent[] = []): object =>
    outcome(resolve([by], networks, incumbents, { probeResults: answers }));

  it("counts a domain's MAC only on the bridge of its NIC, whatever its other NICs are", () => {
    const domains = [card("virbr0", MAC_A)];
    const other = second({ domains: [card("virbr1", MAC_B), card("virbr1", MAC_C, "far")] });
    expect(at(web, [first({ domains }), other])).toEqual({ at: own, why: "" });
    const off = at(web, [first({ domains, leases: [] }), other]);
    expect(off).toEqual({ at: "pending", why: expect.stringContaining("plugged into virbr0") });
    const lured = incumbent(taken, MAC_A);
    expect(at(web, [first({ domains }), other], [lured])).toEqual({ at: own, why: "" });
  });

  it.each([
    ["mac", byMac],
    ["hostname", byName],
  ])("counts the MAC only on the network where libvirt lists it (%s)", (_what, by) => {
    const domains = [card("virbr0", MAC_A)];
    const named = [{ ...ownLease, hostname: "web" }];
    const networks = [first({ domains, leases: named }), second()];
    expect(at(by, networks)).toEqual({ at: own, why: "" });
    expect(at(by, [first({ domains }), second({ domains: [card("virbr1", MAC_A)] })])).toMatchObject({
      at: taken,
    });
  });

  it.each([
    ["mac", byMac],
    ["hostname", byName],
  ])(
    "keeps an incumbent that libvirt does not list on its network while it answers there (%s)",
    (_what, by) => {
      const { incumbents } = resolve([by], [first({ leases: [{ ...ownLease, hostname: "web" }] })]);
      expect(incumbents).toMatchObject([{ address: own }]);
      // Be it silent, or its lease released by somebody.
      expect(at(by, [first(), second()], incumbents)).toEqual({
        at: own,
        why: expect.stringContaining(`conflict: ${MAC_A} at ${taken}`),
      });
      const released = [first({ leases: [] }), second()];
      const ownAnswers = (answer: Mac | undefined): Resolution =>
        resolve([by], released, incumbents, {
          probeResults: answersAt([own, answer], [taken, MAC_A, "virbr1"]),
        });
      expect(outcome(ownAnswers(MAC_A))).toEqual({ at: own, why: expect.stringContaining("still answers") });
      expect(outcome(ownAnswers(undefined)).at).toBe(taken);
    },
  );

  it("ignores answers at the same address on another network with the same subnet", () => {
    const twin = network({
      bridge: "virbr1",
      leases: [lease(own, MAC_B, { bridge: "virbr1" })],
    });
    const other = guest("far", { kind: "mac", mac: MAC_B });
    const both = resolve([byMac, other], [first(), twin], [], {
      probeResults: answersAt([own, MAC_A], [own, MAC_B, "virbr1"]),
    });
    expect([outcome(both), outcome(both, 1)]).toEqual([
      { at: own, why: "" },
      { at: own, why: "" },
    ]);
    expect(resolve([byMac, other], [first(), twin]).probes).toEqual([
      { bridge: "virbr0", address: own },
      { bridge: "virbr1", address: own },
    ]);
  });

  it("drops the incumbent for another MAC's row for its address only on its own network", () => {
    const { incumbents } = resolve([byMac], [first()]);
    const row = lease(own, MAC_B, { bridge: "virbr1" });
    const kept = (networks: readonly Network[]): string =>
      outcome(resolve([byMac], networks, incumbents, { probeResults: answersAt([own, MAC_A]) })).at;
    expect(kept([first({ leases: [] }), second({ leases: [row] })])).toBe(own);
    expect(kept([first({ leases: [{ ...row, bridge: "virbr0" }] }), second({ leases: [] })])).toBe("pending");
  });

  it.each([
    ["live", NOW + 7_200_000],
    ["expired", NOW - 1],
  ])(
    "keeps the incumbent whose lease vanished while it answers, with that lease %s",
    (_what, expiresAtMs) => {
      const held = incumbent(own, MAC_A);
      const networks = [
        first({ domains: [card("virbr0", MAC_A)], leases: [] }),
        second({ domains: [card("virbr1", MAC_B)], leases: [{ ...forged, expiresAtMs }] }),
      ];
      const evidence = { probeResults: answersAt([own, MAC_A]) };
      const kept = resolve([web], networks, [held], { ...evidence });
      expect(outcome(kept)).toEqual({ at: own, why: expect.stringContaining("still answers there: kept") });
    },
  );
});

describe("more leases than a pass can probe", () => {
  const subnets = [{ cidr: { family: 4 as const, base: ip("10.1.0.0"), prefix: 16 }, own: ip("10.1.0.1") }];
  const address = (index: number): string => `10.1.${(index >> 8) + 1}.${index & 255}`;
  const many = (owner: Mac, from: number, count: number): readonly Lease[] =>
    Array.from({ length: count }, (_, index) =>
      lease(address(from + index), owner, { expiresAtMs: NOW + 7_200_000 + index }),
    );
  const oldest = address(0);
  const leases = many(MAC_A, 0, 300);
  const flooded = network({ ...running, subnets, leases });

  it("probes the newest and the incumbent's in each pass, and the others in turn", () => {
    const held = incumbent(oldest, MAC_A);
    const asked = new Set<string>();
    for (let nowMs = NOW; nowMs < NOW + 600; nowMs += 1) {
      const turn = resolve([web], [flooded], [held], { nowMs }).probes.map((each) => each.address);
      expect(turn.length).toBeLessThan(16);
      expect(turn).toContain(oldest);
      expect(turn).toContain(address(299));
      for (const each of turn) asked.add(each);
    }
    expect(asked.size).toBe(leases.length);
  });

  it("chooses a lease that answers in its turn, and keeps it", () => {
    const own = address(150);
    const turnMs = Array.from({ length: 600 }, (_, index) => NOW + index).find((nowMs) =>
      resolve([web], [flooded], [], { nowMs }).probes.some((each) => each.address === own),
    );
    const evidence = { probeResults: answersAt([own, MAC_A]) };
    const found = resolve([web], [flooded], [], { nowMs: turnMs ?? 0, ...evidence });
    expect(outcome(found)).toEqual({ at: own, why: expect.stringContaining("and 4 more passed over") });
    const later = resolve([web], [flooded], found.incumbents, { nowMs: NOW + 5000, ...evidence });
    expect(outcome(later)).toEqual(outcome(found));
  });

  it("chooses the newest while none answers, and names their number", () => {
    expect(outcome(resolve([web], [flooded]))).toEqual({
      at: address(299),
      why: `unverified: ${MAC_A} has 300 live leases and answers at none of the 8 newest`,
    });
  });

  it("names at most 256 probes per pass, the first of each guest among them, and all in turn", () => {
    const count = 60;
    const macOf = (index: number): Mac => mac(`52:54:00:00:00:${index.toString(16).padStart(2, "0")}`);
    const indexes = Array.from({ length: count }, (_, index) => index);
    const guests = indexes.map((index) => guest(`g${index}`, { kind: "mac", mac: macOf(index) }));
    const up = network({ subnets, leases: indexes.flatMap((index) => many(macOf(index), index * 8, 8)) });
    const asked = new Set<string>();
    for (let nowMs = NOW; nowMs < NOW + 500; nowMs += 5) {
      const { probes } = resolve(guests, [up], [], { nowMs });
      expect(probes).toHaveLength(256);
      for (const each of probes) asked.add(each.address);
    }
    expect(asked.size).toBe(count * 8);
    const { probes } = resolve(guests, [up]);
    const askedOf = new Set(
      probes.map((each) => up.leases?.find((row) => row.address === each.address)?.mac),
    );
    expect(askedOf.size).toBe(count);
    const answers = new Map(probes.map((each) => [networkAddressKey(each), undefined]));
    const again = resolve(guests, [up], [], { probeResults: answers });
    expect(again.probes).toEqual(probes);
  });
});

describe("addresses that cannot be a guest's", () => {
  it.each([
    ["10.0.0.1", "outside"],
    ["127.0.0.1", "outside"],
    ["0.0.0.0", "outside"],
    ["192.168.122.1", "own address"],
    ["192.168.122.0", "network or broadcast"],
    ["192.168.122.255", "network or broadcast"],
  ])("rejects %s: %s", (address, why) => {
    const up = network({ ...running, leases: [lease(address, MAC_A)] });
    expect(outcome(resolve([web], [up]))).toEqual({ at: "pending", why: expect.stringContaining(why) });
  });
});

describe("an address that the host itself has on any link", () => {
  const at = "192.168.122.99";
  const host: HostAddresses = new Map([...HOST, ["lan0", [ip(at)]]]);
  const refusal = { at: "pending", why: expect.stringContaining(`${at} is the host's own, on lan0`) };

  it.each([
    ["leased", web],
    ["in the config", guest("web", { kind: "address", address: ip(at) })],
  ])("is rejected: %s", (_what, by) => {
    const up = network({ ...running, leases: [lease(at, MAC_A)] });
    expect(outcome(resolve([by], [up], [], { hostAddresses: host }))).toEqual(refusal);
    expect(outcome(resolve([by], [up])).at).toBe(at);
  });

  it("ends a forward to it at once, though the lease is live", () => {
    const up = network({ ...running, leases: [lease(at, MAC_A)] });
    const { incumbents } = resolve([web], [up]);
    expect(incumbents).toHaveLength(1);
    expect(outcome(resolve([web], [up], incumbents, { hostAddresses: host }))).toEqual(refusal);
  });
});

describe("two rows for one address", () => {
  const both = (second: Partial<ReturnType<typeof lease>>): Network =>
    network({
      ...running,
      leases: [lease("192.168.122.11", MAC_A), lease("192.168.122.11", MAC_B, second)],
    });

  it("uses the live row when the other one expired", () => {
    expect(outcome(resolve([web], [both({ expiresAtMs: NOW - 1 })])).at).toBe("192.168.122.11");
  });

  const at = ip("192.168.122.11");
  const answering = (
    answer: typeof MAC_A | undefined,
    incumbents: readonly Incumbent[] = [],
  ): ReturnType<typeof outcome>[] =>
    [both({}), { ...both({}), leases: both({}).leases?.toReversed() }].map((up) =>
      outcome(resolve([web], [up], incumbents, { probeResults: answersAt([at, answer]) })),
    );
  const held = incumbent(at, MAC_A);

  it("uses the row of the MAC that answers, in any order of rows", () => {
    for (const each of answering(MAC_A)) expect(each.at).toBe(at);
    for (const each of answering(MAC_B, [held]))
      expect(each).toEqual({ at: "pending", why: expect.stringContaining(`and ${MAC_B} answers there`) });
  });

  it("keeps the incumbent and adds no other guest while no neighbour answers", () => {
    for (const each of answering(undefined, [held])) expect(each.at).toBe(at);
    for (const each of answering(undefined)) expect(each.at).toBe("pending");
  });

  it("probes the address again", () => {
    const { probes, wakeAtMs } = resolve([web], [both({})]);
    expect(probes).toEqual([{ bridge: "virbr0", address: at }]);
    expect(wakeAtMs).toBe(NOW + 1000);
  });
});

describe("hostname", () => {
  const laptop = guest("laptop", { kind: "hostname", hostname: "My-Laptop" });
  const named = (address: string, owner: typeof MAC_A): ReturnType<typeof lease> =>
    lease(address, owner, { hostname: "my-laptop" });
  const held = incumbent("192.168.122.11", MAC_A, { guest: "laptop", identity: "hostname=My-Laptop" });

  it("finds the only lease with this name, in any case", () => {
    expect(outcome(resolve([laptop], [network({ leases: [named("192.168.122.11", MAC_A)] })])).at).toBe(
      "192.168.122.11",
    );
  });

  it("is a conflict that names both guests when two use it and there is no incumbent", () => {
    const leases = [named("192.168.122.11", MAC_A), named("192.168.122.12", MAC_B)];
    const { at, why } = outcome(resolve([laptop], [network({ leases })]));
    expect(at).toBe("pending");
    expect(why).toContain(`${MAC_A} at 192.168.122.11`);
    expect(why).toContain(`${MAC_B} at 192.168.122.12`);
  });

  it("stays with the incumbent when dnsmasq has given it to another guest", () => {
    const leases = [lease("192.168.122.11", MAC_A), named("192.168.122.66", MAC_B)];
    const { at, why } = outcome(resolve([laptop], [network({ leases })], [held]));
    expect(at).toBe("192.168.122.11");
    expect(why).toContain("conflict");
    expect(why).toContain(MAC_B);
  });

  it("moves to the new guest when the incumbent has no live lease", () => {
    const leases = [named("192.168.122.66", MAC_B)];
    expect(outcome(resolve([laptop], [network({ leases })], [held])).at).toBe("192.168.122.66");
  });

  it("forgets the incumbent when the config names another host name", () => {
    const renamed = guest("laptop", { kind: "hostname", hostname: "other" });
    const leases = [lease("192.168.122.11", MAC_A), lease("192.168.122.12", MAC_B, { hostname: "other" })];
    expect(outcome(resolve([renamed], [network({ leases })], [held])).at).toBe("192.168.122.12");
  });

  it("remembers the incumbent while its network is down", () => {
    const down = resolve([laptop], [network({ subnets: [] })], [held]);
    expect(outcome(down).at).toBe("pending");
    const leases = [named("192.168.122.11", MAC_A), named("192.168.122.66", MAC_B)];
    expect(outcome(resolve([laptop], [network({ leases })], down.incumbents)).at).toBe("192.168.122.11");
  });
});

it("probes a guest again soon after a move, however old the doubt about its last address is", () => {
  const held = incumbent("192.168.122.10", MAC_A, {
    recheck: { doubt: "ambiguous", sinceMs: NOW - 600_000, dueAtMs: NOW },
  });
  const leases = [
    lease("192.168.122.11", MAC_A, { expiresAtMs: NOW + 2_000_000 }),
    lease("192.168.122.12", MAC_A, { expiresAtMs: NOW + 1_000_000 }),
  ];
  const up = network({ ...running, leases });
  const answers = answersAt(
    ["192.168.122.11", undefined],
    ["192.168.122.12", undefined],
    ["192.168.122.10", undefined],
  );
  const moved = resolve([web], [up], [held], { probeResults: answers });
  expect(outcome(moved).at).toBe("192.168.122.11");
  expect(moved.incumbents[0]?.recheck?.sinceMs).toBe(NOW);
});

describe("a lease that vanished", () => {
  const held = incumbent("192.168.122.11", MAC_A);

  it("lingers, then is pending", () => {
    const first = resolve([web], [network(running)], [held]);
    expect(outcome(first)).toEqual({ at: "192.168.122.11", why: expect.stringContaining("lingers") });
    expect(first.wakeAtMs).toBe(NOW + 5000);
    const still = resolve([web], [network(running)], first.incumbents, { nowMs: NOW + 4999 });
    expect(outcome(still).at).toBe("192.168.122.11");
    const over = resolve([web], [network(running)], still.incumbents, { nowMs: NOW + 5000 });
    expect(outcome(over).at).toBe("pending");
    expect(over.incumbents).toEqual([]);
  });

  it("does not linger when another MAC holds the address", () => {
    const up = network({ ...running, leases: [lease("192.168.122.11", MAC_B)] });
    expect(outcome(resolve([web], [up], [held])).at).toBe("pending");
  });

  it("confirms the forward when it comes back in time", () => {
    const first = resolve([web], [network(running)], [held]);
    const up = network({ ...running, leases: [lease("192.168.122.11", MAC_A)] });
    const back = resolve([web], [up], first.incumbents, { nowMs: NOW + 1000 });
    expect(outcome(back)).toEqual({ at: "192.168.122.11", why: "" });
    expect(back.incumbents[0]?.leaseLostAtMs).toBeUndefined();
  });

  it("ends the forward at its expiry", () => {
    const up = network({ ...running, leases: [lease("192.168.122.11", MAC_A, { expiresAtMs: NOW + 10 })] });
    const live = resolve([web], [up]);
    expect(live.wakeAtMs).toBe(NOW + 10);
    expect(outcome(resolve([web], [up], live.incumbents, { nowMs: NOW + 10 })).why).toContain("expired");
    expect(outcome(resolve([web], [up], [], { nowMs: NOW + 10 })).at).toBe("pending");
  });
});

it("keeps the incumbent while the lease file cannot be read", () => {
  const held = incumbent("192.168.122.11", MAC_A);
  const unread = network({ ...running, leases: undefined });
  const much = resolve([web], [unread], [held], { nowMs: NOW + 86_400_000 });
  expect(outcome(much)).toEqual({ at: "192.168.122.11", why: expect.stringContaining("cannot be read") });
  expect(outcome(resolve([web], [unread])).at).toBe("pending");
});

describe("host addresses", () => {
  const up = network({
    ...running,
    leases: [lease("192.168.122.11", MAC_A), lease("fd00:122::5", MAC_A)],
  });

  it("publishes on the addresses of an interface in both families", () => {
    const eth = guest("web", domain("web"), [{ listen: [{ kind: "interface", name: "eth0" }] }]);
    const { forwards } = resolve([eth], [up]);
    expect(forwards.map((each) => [each.family, each.hostAddresses, each.target?.address])).toEqual([
      [4, ["192.168.1.100"], "192.168.122.11"],
      [6, ["fd01::100"], "fd00:122::5"],
    ]);
  });

  it("ignores an interface's IPv6 address when the guest has none", () => {
    const eth = guest("web", domain("web"), [{ listen: [{ kind: "interface", name: "eth0" }] }]);
    const { forwards } = resolve([eth], [network({ ...running, leases: [lease("192.168.122.11", MAC_A)] })]);
    expect(forwards.map((each) => each.family)).toEqual([4]);
  });

  it.each([
    [true, ["127.0.0.1"], "192.168.122.11", undefined],
    [false, [], undefined, expect.stringContaining("127.0.0.1 can be published, with reach.loopback: true")],
  ])(
    "publishes on 127.0.0.1 for interface lo only with reach.loopback (%s)",
    (loopback, addresses, target, why) => {
      const web2 = guest("web", domain("web"), [{ listen: [{ kind: "interface", name: "lo" }] }]);
      const map = portMap([web2], { reach: { guests: true, host: true, loopback } });
      const host: HostAddresses = new Map([["lo", [ip("127.0.0.1"), ip("127.0.0.2"), ip("::1")]]]);
      const { forwards } = resolveMap(map, [up], [], { hostAddresses: host });
      expect(
        forwards.map((each) => [each.family, each.hostAddresses, each.target?.address, each.why?.text]),
      ).toEqual([[4, addresses, target, why]]);
    },
  );

  describe("of two forwards with the same port", () => {
    const eth0: Listen = { kind: "interface", name: "eth0" };
    const at = (address: string): Listen => ({ kind: "address", address: ip(address) });
    const host: HostAddresses = new Map([["eth0", [ip("192.168.1.100"), ip("192.168.1.101")]]]);
    const both = network({
      leases: [lease("192.168.122.11", MAC_A), lease("192.168.122.12", MAC_B)],
      domains: [
        { bridge: "virbr0", domain: "web", macs: [MAC_A] },
        { bridge: "virbr0", domain: "db", macs: [MAC_B] },
      ],
    });
    const publishedAt = (
      forwards: readonly (readonly [
        name: string,
        listen: readonly Listen[],
        ports?: readonly [number, number],
      ])[],
      loopback = false,
    ): readonly (readonly [readonly string[], string | undefined])[] => {
      const guests = forwards.map(([name, listen, published = [80, 80] as const]) =>
        guest(name, domain(name), [{ published, target: published, listen }]),
      );
      const map = portMap(guests, { reach: { guests: true, host: true, loopback } });
      return resolveMap(map, [both], [], { hostAddresses: host }).forwards.map(
        ({ hostAddresses, target, why }) => [target === undefined ? ["pending"] : hostAddresses, why?.text],
      );
    };

    it("the later one is pending and names the guest that has the port", () => {
      expect(
        publishedAt([
          ["web", [eth0]],
          ["db", [at("192.168.1.100")]],
        ]),
      ).toEqual([
        [["192.168.1.100", "192.168.1.101"], undefined],
        [["pending"], "192.168.1.100:80/tcp is published for guest web already"],
      ]);
    });

    it("the later one keeps the remaining addresses", () => {
      expect(
        publishedAt([
          ["db", [at("192.168.1.100")]],
          ["web", [eth0]],
        ]),
      ).toEqual([
        [["192.168.1.100"], undefined],
        [["192.168.1.101"], "192.168.1.100:80/tcp is published for guest db already"],
      ]);
      const first = publishedAt([
        ["db", [at("192.168.1.100")], [85, 86]],
        ["web", [eth0], [80, 90]],
      ]);
      expect(first[1]).toEqual([
        ["192.168.1.101"],
        "192.168.1.100:85-86/tcp is published for guest db already",
      ]);
      expect(
        publishedAt([
          ["db", [at("192.168.1.100")], [79, 79]],
          ["web", [eth0]],
        ])[1],
      ).toEqual([["192.168.1.100", "192.168.1.101"], undefined]);
    });

    it("the one that names 127.0.0.1 has it, else the first", () => {
      const [one, two] = [at("192.168.1.100"), at("192.168.1.101")];
      expect(
        publishedAt(
          [
            ["web", [one]],
            ["db", [two]],
          ],
          true,
        ),
      ).toEqual([
        [["192.168.1.100", "127.0.0.1"], undefined],
        [["192.168.1.101"], "127.0.0.1:80/tcp is published for guest web already"],
      ]);
      expect(
        publishedAt(
          [
            ["web", [one]],
            ["db", [at("127.0.0.1")]],
          ],
          true,
        ),
      ).toEqual([
        [["192.168.1.100"], undefined],
        [["127.0.0.1"], undefined],
      ]);
    });

    it("the first that is published somewhere has 127.0.0.1 while the interface of an earlier one is missing", () => {
      expect(
        publishedAt(
          [
            ["web", [{ kind: "interface", name: "eth9" }]],
            ["db", [at("192.168.1.100")]],
          ],
          true,
        ),
      ).toEqual([
        [["pending"], "there is no interface eth9 (yet)"],
        [["192.168.1.100", "127.0.0.1"], undefined],
      ]);
    });
  });

  it.each([
    ["eth9", "there is no interface eth9 (yet)"],
    ["eth1", "interface eth1 has no address (yet)"],
  ])("is pending with the reason on interface %s", (name, why) => {
    const later = guest("web", domain("web"), [{ listen: [{ kind: "interface", name }] }]);
    const addresses = new Map([...HOST, ["eth1", []]]);
    const { forwards } = resolve([later], [up], [], { hostAddresses: addresses });
    expect(forwards.map((each) => each.why?.text)).toEqual([why]);
  });

  it("is pending with the reason on an address that the host does not have yet", () => {
    const later = guest("web", domain("web"), [
      { listen: [{ kind: "address", address: ip("192.168.1.200") }] },
    ]);
    expect(outcome(resolve([later], [up]))).toEqual({
      at: "pending",
      why: expect.stringContaining("192.168.1.200: not on this host"),
    });
  });
});

it("does not depend on the order of the leases", () => {
  const leases = [
    lease("192.168.122.11", MAC_A),
    lease("192.168.122.12", MAC_A),
    lease("192.168.122.9", MAC_B),
    lease("192.168.122.11", MAC_B),
  ];
  const results = [leases, leases.toReversed()].map((rows) =>
    resolve([web], [network({ ...running, leases: rows })]),
  );
  expect(results[0]).toEqual(results[1]);
});
