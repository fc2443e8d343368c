import { expect, it } from "vitest";
import { locateByMacs, nicsOn } from "../../../src/identity/locate-by-mac.ts";
import type { Incumbent, Located } from "../../../src/identity/lookup.ts";
import type { Mac } from "../../../src/net/address.ts";
import type { Lease } from "../../../src/leases/lease.ts";
import type { Network } from "../../../src/leases/network.ts";
import {
  incumbent,
  ip,
  lease,
  lookupContext,
  MAC_A,
  MAC_B,
  MAC_C,
  network,
  NOW,
} from "../../support/build-values.ts";

/** A guest with the NICs {@link MAC_A} and {@link MAC_B}, in libvirt's order. */
const A = "192.168.122.11";
const B = "192.168.122.12";
const FAR = "10.1.0.5";

interface Case {
  readonly name: string;
  /** undefined: the file cannot be read. */
  readonly leases: readonly Lease[] | undefined;
  readonly incumbent?: Incumbent;
  readonly answers?: Readonly<Record<string, Mac>>;
  readonly result: string;
  readonly probes: readonly string[];
}

const held = incumbent(B, MAC_B);
const away = lease(FAR, MAC_B, { bridge: "virbr1", expiresAtMs: NOW + 7_200_000 });

const CASES: readonly Case[] = [
  { name: "no lease", leases: [], result: "absent", probes: [] },
  { name: "no lease, with an incumbent", leases: [], incumbent: held, result: "lease-missing", probes: [] },
  {
    name: "no lease, the incumbent has another NIC",
    leases: [],
    incumbent: incumbent(B, MAC_C),
    result: "absent",
    probes: [],
  },
  {
    name: "unreadable, with an incumbent",
    leases: undefined,
    incumbent: held,
    result: "unreadable",
    probes: [],
  },
  {
    name: "the incumbent's lease expired",
    leases: [lease(B, MAC_B, { expiresAtMs: NOW - 1 })],
    incumbent: held,
    result: "absent",
    probes: [],
  },
  {
    name: "another lease of its MAC expired",
    leases: [lease(A, MAC_B, { expiresAtMs: NOW - 1 })],
    incumbent: held,
    result: "lease-missing",
    probes: [],
  },
  { name: "a lease of each NIC", leases: [lease(B, MAC_B), lease(A, MAC_A)], result: A, probes: [A, B] },
  {
    name: "a lease of each NIC, with an incumbent",
    leases: [lease(A, MAC_A), lease(B, MAC_B)],
    incumbent: held,
    result: B,
    probes: [],
  },
  {
    name: "a lease of each NIC, another MAC answers at the first",
    leases: [lease(A, MAC_A), lease(B, MAC_B)],
    answers: { [A]: MAC_C },
    result: B,
    probes: [A, B],
  },
  {
    name: "another MAC answers at each",
    leases: [lease(A, MAC_A), lease(B, MAC_B)],
    answers: { [A]: MAC_C, [B]: MAC_C },
    result: "mac-mismatch",
    probes: [A, B],
  },
  {
    name: "the incumbent's lease vanished, and it answers",
    leases: [lease(A, MAC_A)],
    incumbent: held,
    answers: { [B]: MAC_B },
    result: B,
    probes: [B, A],
  },
  {
    name: "the incumbent's lease vanished, and it is silent",
    leases: [lease(A, MAC_A)],
    incumbent: held,
    result: A,
    probes: [B, A],
  },
  {
    name: "the incumbent's MAC has a newer lease on another network",
    leases: [lease(B, MAC_B), away],
    incumbent: held,
    result: B,
    probes: [],
  },
  {
    name: "the incumbent's MAC has a lease on another network only, and it answers at its address",
    leases: [away],
    incumbent: held,
    answers: { [B]: MAC_B },
    result: B,
    probes: [B, B, FAR],
  },
];

function locate({ leases, incumbent: remembered, answers = {} }: Case): Located {
  const subnet = { cidr: { family: 4 as const, base: ip("10.1.0.0"), prefix: 24 }, own: ip("10.1.0.1") };
  const on = (bridge: string): readonly Lease[] | undefined =>
    leases?.filter((each) => each.bridge === bridge);
  const networks: readonly Network[] = [
    network({ leases: on("virbr0") }),
    network({ bridge: "virbr1", subnets: [subnet], leases: on("virbr1") }),
  ];
  const context = lookupContext(networks, answers);
  const nics = nicsOn(networks, [MAC_A, MAC_B]);
  return locateByMacs(nics, { family: 4, networks, incumbent: remembered, context });
}

it.each(CASES)("$name -> $result", (each) => {
  const located = locate(each);
  expect(located.state === "found" ? located.target.address : located.state).toBe(each.result);
  expect(located.probes.map(({ address }) => address)).toEqual(each.probes);
  // One round of probes suffices.
  expect(locate({ ...each, answers: {} }).probes).toEqual(located.probes);
});

it("names the lease on another network that changes nothing", () => {
  const located = locate({
    name: "",
    leases: [lease(B, MAC_B), away],
    incumbent: held,
    result: B,
    probes: [],
  });
  expect(located).toMatchObject({
    note: { kind: "conflict", text: `conflict: ${MAC_B} at ${FAR}, on another network, changes nothing` },
  });
});
