import { describe, expect, it } from "vitest";
import { chooseLease } from "../../../src/identity/choose-lease.ts";
import type { Incumbent, Located } from "../../../src/identity/lookup.ts";
import type { Mac } from "../../../src/net/address.ts";
import type { Lease } from "../../../src/leases/lease.ts";
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

/** The newest lease, an older one, and one between them. */
const NEW = "192.168.122.13";
const MID = "192.168.122.12";
const OLD = "192.168.122.11";
const EXPIRIES: Readonly<Record<string, number>> = { [OLD]: 1_000_000, [MID]: 2_000_000, [NEW]: 3_000_000 };
const owned = (address: string, owner: Mac = MAC_A): Lease =>
  lease(address, owner, { expiresAtMs: NOW + (EXPIRIES[address] ?? 0) });

type Answers = Readonly<Record<string, Mac>>;
interface Case {
  readonly name: string;
  /** Addresses that {@link MAC_A} has a live lease of. */
  readonly leases: readonly string[];
  readonly incumbent?: Incumbent;
  /** Rows of other MACs. */
  readonly others?: readonly Lease[];
  readonly answers?: Answers;
  /** `address (doubt)`, or the state without an address. */
  readonly result: string;
  readonly probes: readonly string[];
}

const CONFIRMED = incumbent(OLD, MAC_A);
const SILENT_DUE = incumbent(OLD, MAC_A, { recheck: { doubt: "silent", sinceMs: NOW - 100, dueAtMs: NOW } });
const SILENT_LATER = incumbent(OLD, MAC_A, { recheck: { doubt: "silent", sinceMs: NOW, dueAtMs: NOW + 50 } });
const AMBIGUOUS = incumbent(OLD, MAC_A, {
  recheck: { doubt: "ambiguous", sinceMs: NOW, dueAtMs: NOW + 50 },
});
const FLAPPING = incumbent(OLD, MAC_A, {
  recentMovesAtMs: [1, 2, 3, 4, 5, 6].map((second) => NOW - second * 1000),
});
const RETURNING = incumbent(NEW, MAC_A, {
  previousAddress: ip(OLD),
  recheck: { doubt: "ambiguous", sinceMs: NOW - 1000, dueAtMs: NOW },
});

function choose({ leases, incumbent: held, others = [], answers = {} }: Case): Located {
  const own = leases.map((address) => owned(address));
  const context = lookupContext([network({ leases: [...own, ...others] })], answers);
  return chooseLease(MAC_A, own, held, context);
}

function describeResult(located: Located): string {
  return located.state === "found" ? `${located.target.address} (${located.doubt})` : located.state;
}

const ONE: readonly Case[] = [
  { name: "confirmed incumbent", leases: [OLD], incumbent: CONFIRMED, result: `${OLD} (none)`, probes: [] },
  {
    name: "confirmed incumbent, whatever answers",
    leases: [OLD],
    incumbent: CONFIRMED,
    answers: { [OLD]: MAC_B },
    result: `${OLD} (none)`,
    probes: [],
  },
  {
    name: "silent incumbent, not due",
    leases: [OLD],
    incumbent: SILENT_LATER,
    result: `${OLD} (silent)`,
    probes: [],
  },
  {
    name: "silent incumbent, due",
    leases: [OLD],
    incumbent: SILENT_DUE,
    result: `${OLD} (silent)`,
    probes: [OLD],
  },
  {
    name: "ambiguous incumbent, not due",
    leases: [OLD],
    incumbent: AMBIGUOUS,
    answers: { [OLD]: MAC_A },
    result: `${OLD} (none)`,
    probes: [OLD],
  },
  { name: "new, silent", leases: [OLD], result: `${OLD} (silent)`, probes: [OLD] },
  {
    name: "new, the guest answers",
    leases: [OLD],
    answers: { [OLD]: MAC_A },
    result: `${OLD} (none)`,
    probes: [OLD],
  },
  {
    name: "new, another MAC answers",
    leases: [OLD],
    answers: { [OLD]: MAC_B },
    result: "mac-mismatch",
    probes: [OLD],
  },
];

const SEVERAL: readonly Case[] = [
  { name: "silent", leases: [OLD, NEW], result: `${NEW} (ambiguous)`, probes: [NEW, OLD] },
  {
    name: "silent, with an incumbent",
    leases: [OLD, NEW],
    incumbent: CONFIRMED,
    result: `${OLD} (ambiguous)`,
    probes: [OLD, NEW],
  },
  {
    name: "the guest answers at the older",
    leases: [OLD, NEW],
    answers: { [OLD]: MAC_A },
    result: `${OLD} (ambiguous)`,
    probes: [NEW, OLD],
  },
  {
    name: "the guest answers at all",
    leases: [OLD, MID, NEW],
    incumbent: CONFIRMED,
    answers: { [OLD]: MAC_A, [MID]: MAC_A, [NEW]: MAC_A },
    result: `${NEW} (ambiguous)`,
    probes: [OLD, NEW, MID],
  },
  {
    name: "the guest answers at all, after six moves within a minute",
    leases: [OLD, MID, NEW],
    incumbent: FLAPPING,
    answers: { [OLD]: MAC_A, [MID]: MAC_A, [NEW]: MAC_A },
    result: `${OLD} (ambiguous)`,
    probes: [OLD, NEW, MID],
  },
  {
    name: "after six moves within a minute, the guest does not answer at the incumbent's",
    leases: [OLD, NEW],
    incumbent: FLAPPING,
    answers: { [NEW]: MAC_A },
    result: `${NEW} (ambiguous)`,
    probes: [OLD, NEW],
  },
  {
    name: "another MAC answers at the newest",
    leases: [OLD, NEW],
    answers: { [NEW]: MAC_B },
    result: `${OLD} (ambiguous)`,
    probes: [NEW, OLD],
  },
  {
    name: "other MACs answer at all",
    leases: [OLD, NEW],
    answers: { [NEW]: MAC_B, [OLD]: MAC_C },
    result: "mac-mismatch",
    probes: [NEW, OLD],
  },
];

const VANISHED: readonly Case[] = [
  {
    name: "the guest answers where it was",
    leases: [NEW],
    incumbent: CONFIRMED,
    answers: { [OLD]: MAC_A },
    result: `${OLD} (ambiguous)`,
    probes: [OLD, NEW],
  },
  { name: "silent", leases: [NEW], incumbent: CONFIRMED, result: `${NEW} (ambiguous)`, probes: [OLD, NEW] },
  {
    name: "another MAC answers at the lease",
    leases: [NEW],
    incumbent: CONFIRMED,
    answers: { [NEW]: MAC_B },
    result: "lease-missing",
    probes: [OLD, NEW],
  },
  {
    name: "its time has ended",
    leases: [NEW],
    incumbent: incumbent(OLD, MAC_A, { expiresAtMs: NOW }),
    answers: { [OLD]: MAC_A },
    result: `${NEW} (silent)`,
    probes: [NEW],
  },
  {
    name: "another MAC leases it",
    leases: [NEW],
    incumbent: CONFIRMED,
    others: [owned(OLD, MAC_B)],
    answers: { [OLD]: MAC_A },
    result: `${NEW} (silent)`,
    probes: [NEW],
  },
  {
    name: "the guest answers at the address before the last move",
    leases: [NEW],
    incumbent: RETURNING,
    answers: { [OLD]: MAC_A },
    result: `${OLD} (ambiguous)`,
    probes: [NEW, OLD],
  },
];

const SHARED: readonly Case[] = [
  { name: "silent", leases: [OLD], others: [owned(OLD, MAC_B)], result: "mac-mismatch", probes: [OLD] },
  {
    name: "silent incumbent",
    leases: [OLD],
    others: [owned(OLD, MAC_B)],
    incumbent: CONFIRMED,
    result: `${OLD} (ambiguous)`,
    probes: [OLD],
  },
  {
    name: "the guest answers",
    leases: [OLD],
    others: [owned(OLD, MAC_B)],
    answers: { [OLD]: MAC_A },
    result: `${OLD} (ambiguous)`,
    probes: [OLD],
  },
  {
    name: "the other MAC answers",
    leases: [OLD],
    others: [owned(OLD, MAC_B)],
    incumbent: CONFIRMED,
    answers: { [OLD]: MAC_B },
    result: "mac-mismatch",
    probes: [OLD],
  },
];

describe.each([
  ["one lease", ONE],
  ["several leases", SEVERAL],
  ["a new lease, the incumbent's vanished", VANISHED],
  ["two MACs lease one address", SHARED],
])("%s", (_title, cases) => {
  it.each(cases)("$name -> $result", (each) => {
    const located = choose(each);
    expect(describeResult(located)).toBe(each.result);
    expect(located.probes.map(({ address }) => address)).toEqual(each.probes);
    // One round of probes suffices.
    expect(choose({ ...each, answers: {} }).probes).toEqual(located.probes);
  });
});

it("takes the answer of another NIC of the same domain on the same bridge", () => {
  const domains = [{ bridge: "virbr0", domain: "web", macs: [MAC_A, MAC_B] }];
  const context = lookupContext([network({ domains, leases: [owned(OLD)] })], { [OLD]: MAC_B });
  expect(describeResult(chooseLease(MAC_A, [owned(OLD)], undefined, context))).toBe(`${OLD} (none)`);
});
