import { describe, expect, it } from "vitest";
import { parseFlow } from "../../../src/conntrack/flow.ts";
import type { Flow } from "../../../src/conntrack/flow.ts";
import { planRetry, mergeChecks, createCheck, planNextCheck } from "../../../src/conntrack/pending-checks.ts";
import type { CheckOutcome, PendingCheck } from "../../../src/conntrack/pending-checks.ts";
import { ip } from "../../support/build-values.ts";
import { HOST, line } from "../../support/conntrack-lines.ts";

const SUSPECTS = {
  ports: [{ protocol: "udp", range: { first: 5353, last: 5353 } }],
  formerTargets: new Set([ip("192.168.122.12")]),
};
const START = 1_000_000;
const CHECK = createCheck(SUSPECTS, START);
const read = (text: string): Flow => parseFlow(text) ?? expect.fail(text);
const AT_HOST = read(line({ answerer: HOST, answerPort: 5353 }));
const AT_GUEST = read(line({ answerPort: 5353 }));
const TRANSLATED = read(line({}));

const outcome = (more: Partial<CheckOutcome> = {}): CheckOutcome => ({ removed: [], left: "none", ...more });

/** The ages at which the check is made again, if each has the same outcome. */
function ages(first: CheckOutcome, later: CheckOutcome): readonly number[] {
  const found: number[] = [];
  let check: PendingCheck | undefined = planNextCheck(CHECK, first, START);
  while (check !== undefined && found.length < 1000) {
    found.push(check.dueAtMs - START);
    check = planNextCheck(check, later, check.dueAtMs);
  }
  return found;
}

describe("planNextCheck", () => {
  it("ends when nothing was removed", () => {
    expect(planNextCheck(CHECK, outcome(), START)).toBeUndefined();
  });

  it("ends when no late reply can reach the removed clients", () => {
    expect(planNextCheck(CHECK, outcome({ removed: [TRANSLATED] }), START)).toBeUndefined();
  });

  it("checks three more times after a removal", () => {
    expect(ages(outcome({ removed: [AT_GUEST] }), outcome())).toEqual([1000, 4000, 15_000]);
  });

  it("goes on for a minute while entries are created again", () => {
    const removing = outcome({ removed: [AT_GUEST] });
    expect(ages(removing, removing)).toEqual([1000, 4000, 15_000, 30_000, 45_000, 60_000]);
  });

  it("checks once a second for a minute while entries are left that servers began", () => {
    const found = ages(outcome({ left: "server" }), outcome({ left: "server" }));
    expect([found[0], found[1], found.at(-1)]).toEqual([1000, 2000, 60_000]);
  });

  it("checks at once while entries are left that clients began, and rechecks after the last of them", () => {
    const later = planNextCheck(CHECK, outcome({ removed: [AT_GUEST], left: "client" }), START + 50);
    expect(later?.dueAtMs).toBe(START + 50);
    const done = planNextCheck(later ?? CHECK, outcome(), START + 150);
    expect(done?.dueAtMs).toBe(START + 1050);
  });

  it("remembers the clients whom the host itself answered, of 10,000 at most", () => {
    const check = planNextCheck(CHECK, outcome({ removed: [AT_HOST, AT_GUEST] }), START);
    expect([...(check?.clients ?? [])]).toEqual([`udp 198.51.100.2 40000 ${HOST} 5353`]);
    const many = Array.from({ length: 12_000 }, (_, sourcePort) => ({ ...AT_HOST, sourcePort }));
    const clients = planNextCheck(check ?? CHECK, outcome({ removed: many }), START)?.clients;
    expect(clients?.size).toBe(10_000);
    expect(clients?.has(`udp 198.51.100.2 11999 ${HOST} 5353`)).toBe(true);
  });
});

describe("planRetry", () => {
  it("checks again after ten seconds, as one check however many failed", () => {
    expect(planRetry([CHECK, CHECK], outcome(), "busy", START)).toEqual([
      { ...CHECK, dueAtMs: START + 10_000, failure: "busy" },
    ]);
  });

  it("rechecks what was removed before the failure", () => {
    const [retry, recheck] = planRetry([CHECK], outcome({ removed: [AT_HOST] }), "busy", START);
    expect([retry?.dueAtMs, recheck?.dueAtMs]).toEqual([START + 10_000, START + 1000]);
    expect([recheck?.clients.size, recheck?.failure]).toEqual([1, undefined]);
  });
});

it("mergeChecks joins the ports and the clients", () => {
  const other = {
    ...CHECK,
    ports: [{ protocol: "tcp", range: { first: 22, last: 22 } }],
    clients: new Set(["a"]),
  };
  expect(mergeChecks([CHECK, other, other])).toEqual({
    ports: [...SUSPECTS.ports, ...other.ports],
    formerTargets: SUSPECTS.formerTargets,
    clients: new Set(["a"]),
  });
});
