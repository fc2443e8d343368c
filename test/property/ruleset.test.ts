import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { buildDesired } from "../../src/rules/desired.ts";
import { diffRulesets } from "../../src/rules/diff.ts";
import { readIncumbents } from "../../src/rules/read-incumbents.ts";
import { renderRestore } from "../../src/rules/restore.ts";
import type { PortMap } from "../../src/config/port-map.ts";
import { resolveForwards } from "../../src/forwards/resolve.ts";
import type { Desired } from "../../src/rules/ruleset.ts";
import { isOwnedChain, isOwnedRule, ruleKey, TABLES } from "../../src/rules/ruleset.ts";
import { domain, guest, lease, mac, network, portMap, resolveInputs } from "../support/build-values.ts";
import { createFakeIptables } from "../support/fake-iptables.ts";
import type { FakeIptables } from "../support/fake-iptables.ts";

/** A small host: three guests that are on, off or without lease, at one of a few addresses. */
interface State {
  readonly guests: readonly {
    readonly on: boolean;
    readonly address: number | null;
    readonly ports: readonly number[];
  }[];
  readonly reach: PortMap["reach"];
  /** The bridge has a second address in each of its subnets. */
  readonly hasTwoAddresses: boolean;
}

const stateOf: fc.Arbitrary<State> = fc.record({
  guests: fc.array(
    fc.record({
      on: fc.boolean(),
      address: fc.option(fc.integer({ min: 2, max: 250 })),
      ports: fc.uniqueArray(fc.integer({ min: 1, max: 9 }), { maxLength: 4 }),
    }),
    { minLength: 3, maxLength: 3 },
  ),
  reach: fc.record({ guests: fc.boolean(), host: fc.boolean(), loopback: fc.boolean() }),
  hasTwoAddresses: fc.boolean(),
});

const FOREIGN = [
  "-j LIBVIRT_FWX",
  "-j LIBVIRT_FWI",
  "-j LIBVIRT_FWO",
  "-s 10.0.0.0/8 -j DROP",
  "-o virbr0 -j REJECT --reject-with icmp-port-unreachable",
  "-j DROP",
  "-j REJECT --reject-with icmp-host-prohibited",
  '-m comment --comment "not ours" -j ACCEPT',
  "-j DOCKER-USER",
  // Looks like ours, and is not.
  '-p tcp -m tcp --dport 9 -m comment --comment "kvmnatd:old" -j ACCEPT',
  // Ours by its comment, but nothing that we want: somebody edited it.
  '-p tcp -m tcp --dport 9 -m comment --comment "kvmnatd:@jump" -j ACCEPT',
  '-m comment --comment "kvmnatd:@jump" -j KVMNATD-FWD',
];
const forwardChain = fc.array(fc.constantFrom(...FOREIGN), { maxLength: 8 });

function hasOwnAddresses(guests: State["guests"]): boolean {
  const addresses = guests.map(({ address }) => address).filter((address) => address !== null);
  return new Set(addresses).size === addresses.length;
}

function desiredOf({ guests, reach, hasTwoAddresses }: State): Desired {
  const macOf = (index: number): ReturnType<typeof mac> => mac(`52:54:00:6c:3c:0${index}`);
  const map = portMap(
    guests.map(({ ports }, index) =>
      guest(
        `guest${index}`,
        domain(`guest${index}`),
        ports.map((port) => ({ published: 1000 * (index + 1) + port, target: port })),
      ),
    ),
    { reach },
  );
  const { subnets } = network();
  const up = network({
    subnets: hasTwoAddresses ? subnets.flatMap((subnet) => [subnet, subnet]) : subnets,
    leases: guests.flatMap(({ address }, index) =>
      address === null ? [] : [lease(`192.168.122.${address}`, macOf(index))],
    ),
    domains: guests.flatMap(({ on }, index) =>
      on ? [{ bridge: "virbr0", domain: `guest${index}`, macs: [macOf(index)] }] : [],
    ),
  });
  const { forwards } = resolveForwards(map, [], resolveInputs([up], new Map()));
  return buildDesired({ portMap: map, forwards, networks: [up] }, 4, new Set(["virbr0"]));
}

function start(rules: readonly string[]): FakeIptables {
  const chains = [
    ":LIBVIRT_FWX - [0:0]",
    ":LIBVIRT_FWI - [0:0]",
    ":LIBVIRT_FWO - [0:0]",
    ":DOCKER-USER - [0:0]",
  ];
  const owned = rules.some((rule) => rule.includes("KVMNATD-FWD")) ? [":KVMNATD-FWD - [0:0]"] : [];
  const lines = rules.map((rule) => `-A FORWARD ${rule}`);
  return createFakeIptables(`*filter\n${[...chains, ...owned, ...lines].join("\n")}\nCOMMIT\n`);
}

function converge(fake: FakeIptables, desired: Desired): void {
  fake.restore(renderRestore(diffRulesets(desired, fake.read())));
}

function foreignLines(fake: FakeIptables): readonly string[] {
  return fake
    .save()
    .split("\n")
    .filter((line) => {
      const [, chain = "", ...rule] = line.split(" ");
      if (line.startsWith(":")) return !isOwnedChain(line.slice(1).split(" ")[0] ?? "");
      return !line.startsWith("-A") || (!isOwnedChain(chain) && !isOwnedRule(rule.join(" ")));
    });
}

it("never wants two equal rules in one chain", () => {
  fc.assert(
    fc.property(stateOf, (state) => {
      const { chains, jumps, libvirt } = desiredOf(state);
      const own = TABLES.flatMap((table) => [...chains[table].values()]);
      const foreign = Map.groupBy(jumps, ({ table, chain }) => `${table} ${chain}`);
      const others = [...foreign.values()].map((each) => each.map(({ rule }) => rule));
      for (const rules of [...own, ...others]) expect(new Set(rules.map(ruleKey)).size).toBe(rules.length);
      expect(new Set(libvirt).size).toBe(libvirt.length);
    }),
  );
});

describe("one restore, from any actual to any desired ruleset", () => {
  it("makes them equal, and leaves nothing for a second one", () => {
    fc.assert(
      fc.property(stateOf, forwardChain, (state, rules) => {
        const fake = start(rules);
        converge(fake, desiredOf(state));
        expect(diffRulesets(desiredOf(state), fake.read())).toEqual([]);
      }),
    );
  });

  it("keeps foreign rules byte-identical", () => {
    fc.assert(
      fc.property(stateOf, forwardChain, (state, rules) => {
        const fake = start(rules);
        const before = foreignLines(fake);
        converge(fake, desiredOf(state));
        expect(foreignLines(fake)).toEqual(before);
      }),
    );
  });

  it("puts our jump before every rule that rejects everything", () => {
    fc.assert(
      fc.property(stateOf, forwardChain, (state, rules) => {
        const fake = start(rules);
        const desired = desiredOf(state);
        converge(fake, desired);
        const chain = fake.read().tables.filter.get("FORWARD") ?? [];
        const jump = chain.findIndex((rule) => rule.endsWith("-j KVMNATD-FWD"));
        const reject = chain.findIndex((rule) =>
          /^-j (DROP|REJECT|LIBVIRT_FWI)|^-o virbr0 -j REJECT/.test(rule),
        );
        const used = desired.jumps.length > 0;
        expect(jump === -1).toBe(!used);
        if (used && reject !== -1) expect(jump).toBeLessThan(reject);
      }),
    );
  });
});

describe("a sequence of states", () => {
  it("ends like a fresh start", () => {
    fc.assert(
      fc.property(fc.array(stateOf, { minLength: 1, maxLength: 6 }), forwardChain, (states, rules) => {
        const fake = start(rules);
        for (const state of states) converge(fake, desiredOf(state));
        const last = states.at(-1);
        if (last === undefined) throw new Error("no state");
        const fresh = createFakeIptables();
        converge(fresh, desiredOf(last));
        for (const table of ["raw", "filter", "nat"] as const) {
          const owned = (each: FakeIptables): unknown =>
            [...each.read().tables[table]]
              .filter(([chain]) => isOwnedChain(chain))
              .toSorted(([a], [b]) => a.localeCompare(b));
          expect(owned(fake)).toEqual(owned(fresh));
        }
      }),
    );
  });

  it("writes only the rules of the guest that moved", () => {
    fc.assert(
      fc.property(stateOf, fc.nat(2), fc.integer({ min: 2, max: 250 }), (state, index, address) => {
        const fake = createFakeIptables();
        converge(fake, desiredOf(state));
        const guests = state.guests.map((each, at) => (at === index ? { ...each, address } : each));
        // Of two leases for one address only one counts: there a guest's move is its neighbour's business too.
        fc.pre(hasOwnAddresses(state.guests) && hasOwnAddresses(guests));
        const changes = diffRulesets(desiredOf({ ...state, guests }), fake.read());
        const rules = changes.map((change) => ("rule" in change ? change.rule : change.kind));
        expect(rules.filter((rule) => !rule.includes(`kvmnatd:guest${index} `))).toEqual([]);
      }),
    );
  });
});

it("reads the incumbents back from the rules in the kernel", () => {
  fc.assert(
    fc.property(stateOf, (state) => {
      fc.pre(hasOwnAddresses(state.guests));
      const fake = createFakeIptables();
      converge(fake, desiredOf(state));
      const map = portMap(state.guests.map((_, index) => guest(`guest${index}`, domain(`guest${index}`))));
      const incumbents = readIncumbents(map, new Map([[4, fake.read()]]));
      const expected = state.guests.flatMap(({ on, address, ports }, index) =>
        on && address !== null && ports.length > 0 ? [`guest${index} 192.168.122.${address}`] : [],
      );
      expect(incumbents.map((incumbent) => `${incumbent.guest} ${incumbent.address}`).toSorted()).toEqual(
        expected.toSorted(),
      );
    }),
  );
});
