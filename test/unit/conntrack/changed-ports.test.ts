import { describe, expect, it } from "vitest";
import { suspectAllPorts, mergeSuspects, findSuspects } from "../../../src/conntrack/changed-ports.ts";
import type { PortTarget } from "../../../src/forwards/resolved-forward.ts";
import type { FamilyChange } from "../../../src/rules/diff.ts";
import { ip } from "../../support/build-values.ts";

const WEB = ip("192.168.122.11");
const DB = ip("192.168.122.12");
const target = (port: number, address = WEB): PortTarget => ({
  family: 4,
  protocol: "udp",
  range: { first: port, last: port },
  address,
});
const ports = (...numbers: readonly number[]): unknown =>
  numbers.map((port) => ({ protocol: "udp", range: { first: port, last: port } }));

const change = (kind: "add" | "remove", chain: string, rule: string): FamilyChange => ({
  family: 4,
  change: {
    table: "nat",
    chain,
    rule,
    ...(kind === "add" ? { kind, position: 1, last: true } : { kind, place: undefined, blocker: undefined }),
  },
});
const dnat = (kind: "add" | "remove", port: number, address = WEB): FamilyChange =>
  change(
    kind,
    "KVMNATD-DNAT",
    `-p udp -m udp --dport ${port} -m comment --comment "kvmnatd:web" -j DNAT --to-destination ${address}:53`,
  );
const JUMP = change(
  "add",
  "PREROUTING",
  '-m addrtype --dst-type LOCAL -m comment --comment "kvmnatd:@jump" -j KVMNATD-DNAT',
);
const EXCEPTION = change(
  "remove",
  "KVMNATD-DNAT",
  '-i virbr0 -m comment --comment "kvmnatd:virbr0" -j RETURN',
);

interface Case {
  readonly changes?: readonly FamilyChange[];
  readonly before?: readonly PortTarget[];
  readonly after?: readonly PortTarget[];
  readonly suspects: readonly number[];
  readonly former?: readonly string[];
}

describe("findSuspects", () => {
  it.each<[string, Case]>([
    ["nothing changed", { before: [target(1), target(2)], after: [target(1), target(2)], suspects: [] }],
    [
      "a port is new",
      { changes: [dnat("add", 2)], before: [target(1)], after: [target(1), target(2)], suspects: [2] },
    ],
    [
      "a port moved",
      {
        changes: [dnat("remove", 1), dnat("add", 1, DB)],
        before: [target(1), target(2)],
        after: [target(1, DB), target(2)],
        suspects: [1],
        former: [WEB],
      },
    ],
    [
      "a forward ended and another program removed its rule first",
      { before: [target(1), target(2)], after: [target(2)], suspects: [1], former: [WEB] },
    ],
    [
      "a forward of unknown origin is removed",
      { changes: [dnat("remove", 9, DB)], before: [], after: [target(2)], suspects: [9], former: [DB] },
    ],
    [
      "a rule that another program deleted is repaired",
      {
        changes: [dnat("add", 1)],
        before: [target(1), target(2)],
        after: [target(1), target(2)],
        suspects: [1],
      },
    ],
    [
      "a jump is repaired",
      { changes: [JUMP], before: [target(1), target(2)], after: [target(1), target(2)], suspects: [1, 2] },
    ],
    [
      "an exception is removed",
      {
        changes: [EXCEPTION],
        before: [target(1), target(2)],
        after: [target(1), target(2)],
        suspects: [1, 2],
      },
    ],
    [
      "the last forward ended, and the jump with it",
      { changes: [JUMP], before: [target(1)], after: [], suspects: [1], former: [WEB] },
    ],
  ])("names the ports when %s", (_when, { changes = [], before = [], after = [], suspects, former = [] }) => {
    expect(findSuspects(changes, { before, after }, 4)).toEqual({
      ports: ports(...suspects),
      formerTargets: new Set(former),
    });
  });

  it("ignores changes of the other family", () => {
    const targets = { before: [target(1)], after: [target(1)] };
    expect(findSuspects([JUMP, dnat("add", 1)], targets, 6).ports).toEqual([]);
  });
});

it("suspectAllPorts names what is published and what was", () => {
  expect(suspectAllPorts({ before: [target(1), target(2)], after: [target(2), target(3)] }, 4)).toEqual({
    ports: ports(2, 3, 1),
    formerTargets: new Set([WEB]),
  });
});

it("mergeSuspects names a port once, however often its check failed", () => {
  const suspects = suspectAllPorts({ before: [], after: [target(1)] }, 4);
  expect(mergeSuspects([suspects, suspects]).ports).toEqual(ports(1));
});
