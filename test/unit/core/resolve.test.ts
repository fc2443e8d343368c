import { describe, expect, it } from "vitest";
import type { Holder } from "../../../src/core/find-guest.ts";
import type { HostAddresses, Network } from "../../../src/core/network.ts";
import type { Guest } from "../../../src/core/port-map.ts";
import { resolveForwards } from "../../../src/core/resolve.ts";
import type { Resolution } from "../../../src/core/resolve.ts";
import { domain, guest, ip, lease, MAC_A, MAC_B, network, NOW, portMap } from "../../support/build-values.ts";

const HOST: HostAddresses = new Map([
  ["lo", [ip("127.0.0.1")]],
  ["eth0", [ip("192.168.1.100"), ip("fd01::100")]],
]);
const web = guest("web", domain("web"));
const running = { domains: [{ bridge: "virbr0", domain: "web", macs: [MAC_A] }] };

function resolve(
  guests: readonly Guest[],
  networks: readonly Network[],
  holders: readonly Holder[] = [],
  nowMs: number = NOW,
): Resolution {
  return resolveForwards(portMap(guests), networks, HOST, holders, nowMs);
}

/** `address` or `pending`, and why. */
function outcome(resolution: Resolution, index = 0): { readonly at: string; readonly why: string } {
  const forward = resolution.forwards[index];
  return { at: forward?.target?.address ?? "pending", why: forward?.why ?? "" };
}

describe("domain", () => {
  it("is found by libvirt's MAC and that MAC's lease", () => {
    const up = network({
      ...running,
      leases: [lease("192.168.122.7", MAC_B), lease("192.168.122.11", MAC_A)],
    });
    expect(outcome(resolve([web], [up]))).toEqual({ at: "192.168.122.11", why: "" });
  });

  it("that libvirt does not list is off, though its lease lives on", () => {
    const up = network({ leases: [lease("192.168.122.11", MAC_A)] });
    expect(outcome(resolve([web], [up]))).toMatchObject({
      at: "pending",
      why: expect.stringContaining("guest is off"),
    });
  });

  it("does not count on a bridge that it is not plugged into", () => {
    const plugged = network({ ...running });
    const subnet = { cidr: { family: 4 as const, base: ip("10.1.0.0"), prefix: 24 }, own: ip("10.1.0.1") };
    const other = network({
      bridge: "virbr1",
      subnets: [subnet],
      leases: [lease("10.1.0.5", MAC_A, { bridge: "virbr1" })],
    });
    expect(outcome(resolve([web], [plugged, other])).at).toBe("pending");
  });

  it("with two network cards keeps the one that holds the forward", () => {
    const domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A, MAC_B] }];
    const leases = [lease("192.168.122.11", MAC_A), lease("192.168.122.12", MAC_B)];
    const holder: Holder = { guest: "web", identity: "", address: ip("192.168.122.12"), mac: MAC_B };
    expect(outcome(resolve([web], [network({ domains, leases })])).at).toBe("192.168.122.11");
    expect(outcome(resolve([web], [network({ domains, leases })], [holder])).at).toBe("192.168.122.12");
  });
});

describe("several live leases of one MAC", () => {
  it.each([
    ["the latest expiry", NOW + 1000, NOW + 2000, "192.168.122.12"],
    ["an infinite one before any other", undefined, NOW + 2000, "192.168.122.11"],
    ["the lower address of equals", NOW + 1000, NOW + 1000, "192.168.122.11"],
  ])("%s wins", (_what, first, second, expected) => {
    const at = (expiresAtMs: number | undefined): object =>
      expiresAtMs === undefined ? {} : { expiresAtMs };
    const { expiresAtMs: _, ...eternal } = lease("192.168.122.11", MAC_A);
    const one = first === undefined ? eternal : lease("192.168.122.11", MAC_A, at(first));
    const two = lease("192.168.122.12", MAC_A, at(second));
    for (const leases of [
      [one, two],
      [two, one],
    ])
      expect(outcome(resolve([web], [network({ ...running, leases })])).at).toBe(expected);
  });
});

describe("addresses that can be no guest's", () => {
  it.each([
    ["10.0.0.1", "outside"],
    ["127.0.0.1", "outside"],
    ["0.0.0.0", "outside"],
    ["192.168.122.1", "own address"],
    ["192.168.122.0", "network or broadcast"],
    ["192.168.122.255", "network or broadcast"],
  ])("%s is refused: %s", (address, why) => {
    const up = network({ ...running, leases: [lease(address, MAC_A)] });
    expect(outcome(resolve([web], [up]))).toEqual({ at: "pending", why: expect.stringContaining(why) });
  });
});

describe("two rows for one address", () => {
  const both = (second: Partial<ReturnType<typeof lease>>): Network =>
    network({
      ...running,
      leases: [lease("192.168.122.11", MAC_A), lease("192.168.122.11", MAC_B, second)],
    });

  it("an expired one hides no live one", () => {
    expect(outcome(resolve([web], [both({ expiresAtMs: NOW - 1 })])).at).toBe("192.168.122.11");
  });

  const at = ip("192.168.122.11");
  const answering = (
    answer: typeof MAC_A | undefined,
    holders: readonly Holder[] = [],
  ): ReturnType<typeof outcome>[] =>
    [both({}), { ...both({}), leases: both({}).leases?.toReversed() }].map((up) =>
      outcome(
        resolveForwards(portMap([web]), [up], HOST, holders, NOW, { answers: new Map([[at, answer]]) }),
      ),
    );
  const holder: Holder = { guest: "web", identity: "", address: at, mac: MAC_A };

  it("of live ones that of the MAC that answers counts, in whatever order they stand", () => {
    for (const each of answering(MAC_A)) expect(each.at).toBe(at);
    for (const each of answering(MAC_B, [holder]))
      expect(each).toEqual({ at: "pending", why: expect.stringContaining(`and ${MAC_B} answers there`) });
  });

  it("while nobody answers the incumbent stays, and nobody else comes", () => {
    for (const each of answering(undefined, [holder])) expect(each.at).toBe(at);
    for (const each of answering(undefined)) expect(each.at).toBe("pending");
  });

  it("both are asked again", () => {
    const { questions, wakeAtMs } = resolve([web], [both({})]);
    expect(questions).toEqual([{ bridge: "virbr0", address: at }]);
    expect(wakeAtMs).toBe(NOW + 1000);
  });
});

describe("hostname", () => {
  const laptop = guest("laptop", { kind: "hostname", hostname: "My-Laptop" });
  const named = (address: string, owner: typeof MAC_A): ReturnType<typeof lease> =>
    lease(address, owner, { hostname: "my-laptop" });
  const holder: Holder = {
    guest: "laptop",
    identity: "hostname=My-Laptop",
    address: ip("192.168.122.11"),
    mac: MAC_A,
  };

  it("finds the only one that says so, whatever the case", () => {
    expect(outcome(resolve([laptop], [network({ leases: [named("192.168.122.11", MAC_A)] })])).at).toBe(
      "192.168.122.11",
    );
  });

  it("claimed by two, without incumbent, is a conflict that names both", () => {
    const leases = [named("192.168.122.11", MAC_A), named("192.168.122.12", MAC_B)];
    const { at, why } = outcome(resolve([laptop], [network({ leases })]));
    expect(at).toBe("pending");
    expect(why).toContain(`${MAC_A} at 192.168.122.11`);
    expect(why).toContain(`${MAC_B} at 192.168.122.12`);
  });

  it("stays with the incumbent when dnsmasq has given the name to another", () => {
    const leases = [lease("192.168.122.11", MAC_A), named("192.168.122.66", MAC_B)];
    const { at, why } = outcome(resolve([laptop], [network({ leases })], [holder]));
    expect(at).toBe("192.168.122.11");
    expect(why).toContain("conflict");
    expect(why).toContain(MAC_B);
  });

  it("goes to the new one when the incumbent has no live lease any more", () => {
    const leases = [named("192.168.122.66", MAC_B)];
    expect(outcome(resolve([laptop], [network({ leases })], [holder])).at).toBe("192.168.122.66");
  });

  it("forgets the incumbent when the config looks for another name", () => {
    const renamed = guest("laptop", { kind: "hostname", hostname: "other" });
    const leases = [lease("192.168.122.11", MAC_A), lease("192.168.122.12", MAC_B, { hostname: "other" })];
    expect(outcome(resolve([renamed], [network({ leases })], [holder])).at).toBe("192.168.122.12");
  });

  it("remembers the incumbent while its network is down", () => {
    const down = resolve([laptop], [network({ subnets: [] })], [holder]);
    expect(outcome(down).at).toBe("pending");
    const leases = [named("192.168.122.11", MAC_A), named("192.168.122.66", MAC_B)];
    expect(outcome(resolve([laptop], [network({ leases })], down.holders)).at).toBe("192.168.122.11");
  });
});

describe("a lease that vanished", () => {
  const holder: Holder = { guest: "web", identity: "", address: ip("192.168.122.11"), mac: MAC_A };

  it("lingers, then is pending", () => {
    const first = resolve([web], [network(running)], [holder]);
    expect(outcome(first)).toEqual({ at: "192.168.122.11", why: expect.stringContaining("lingers") });
    expect(first.wakeAtMs).toBe(NOW + 5000);
    const still = resolve([web], [network(running)], first.holders, NOW + 4999);
    expect(outcome(still).at).toBe("192.168.122.11");
    const over = resolve([web], [network(running)], still.holders, NOW + 5000);
    expect(outcome(over).at).toBe("pending");
    expect(over.holders).toEqual([]);
  });

  it("does not linger when another MAC holds the address", () => {
    const up = network({ ...running, leases: [lease("192.168.122.11", MAC_B)] });
    expect(outcome(resolve([web], [up], [holder])).at).toBe("pending");
  });

  it("that comes back in time has not vanished", () => {
    const first = resolve([web], [network(running)], [holder]);
    const up = network({ ...running, leases: [lease("192.168.122.11", MAC_A)] });
    const back = resolve([web], [up], first.holders, NOW + 1000);
    expect(outcome(back)).toEqual({ at: "192.168.122.11", why: "" });
    expect(back.holders[0]).not.toHaveProperty("lostAtMs");
  });

  it("expires by itself", () => {
    const up = network({ ...running, leases: [lease("192.168.122.11", MAC_A, { expiresAtMs: NOW + 10 })] });
    const live = resolve([web], [up]);
    expect(live.wakeAtMs).toBe(NOW + 10);
    expect(outcome(resolve([web], [up], live.holders, NOW + 10)).why).toContain("expired");
    expect(outcome(resolve([web], [up], [], NOW + 10)).at).toBe("pending");
  });
});

it("keeps the incumbent as long as the lease file was never readable", () => {
  const holder: Holder = { guest: "web", identity: "", address: ip("192.168.122.11"), mac: MAC_A };
  const unread = network({ ...running, leases: undefined });
  const much = resolve([web], [unread], [holder], NOW + 86_400_000);
  expect(outcome(much)).toEqual({ at: "192.168.122.11", why: expect.stringContaining("cannot be read") });
  expect(outcome(resolve([web], [unread])).at).toBe("pending");
});

describe("where ports are published", () => {
  const up = network({
    ...running,
    leases: [lease("192.168.122.11", MAC_A), lease("fd00:122::5", MAC_A)],
  });

  it("an interface stands for its addresses of both families", () => {
    const eth = guest("web", domain("web"), [{ listen: [{ kind: "interface", name: "eth0" }] }]);
    const { forwards } = resolve([eth], [up]);
    expect(forwards.map((each) => [each.family, each.hostAddresses, each.target?.address])).toEqual([
      [4, ["192.168.1.100"], "192.168.122.11"],
      [6, ["fd01::100"], "fd00:122::5"],
    ]);
  });

  it("an interface's IPv6 address promises nothing to a guest without one", () => {
    const eth = guest("web", domain("web"), [{ listen: [{ kind: "interface", name: "eth0" }] }]);
    const { forwards } = resolve([eth], [network({ ...running, leases: [lease("192.168.122.11", MAC_A)] })]);
    expect(forwards.map((each) => each.family)).toEqual([4]);
  });

  it("an address that is not on the host yet is pending, and says so", () => {
    const later = guest("web", domain("web"), [
      { listen: [{ kind: "address", address: ip("192.168.1.200") }] },
    ]);
    expect(outcome(resolve([later], [up]))).toEqual({
      at: "pending",
      why: expect.stringContaining("192.168.1.200: not on this host"),
    });
  });
});

it("depends on no order of the leases", () => {
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
