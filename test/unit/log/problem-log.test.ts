import { describe, expect, it } from "vitest";
import type { LogEntry } from "../../../src/log/audit-entries.ts";
import { limitEntries, EMPTY_PROBLEM_LOG, logProblems } from "../../../src/log/problem-log.ts";
import type { ProblemLog } from "../../../src/log/problem-log.ts";
import { createWarning } from "../../../src/diagnostic.ts";
import type { Diagnostic } from "../../../src/diagnostic.ts";

const NOW = 1_700_000_000_000;

function problem(message: string, code: Diagnostic["code"] = "lease-row"): Diagnostic {
  return createWarning(code, message);
}

/** Passes at these times, with these problems. @returns what was logged at each */
function logAll(
  ...passes: readonly (readonly [afterMs: number, problems: readonly Diagnostic[]])[]
): string[][] {
  let log: ProblemLog = EMPTY_PROBLEM_LOG;
  return passes.map(([afterMs, problems], pass) => {
    const logged = logProblems(log, problems, pass, NOW + afterMs);
    log = logged.log;
    return logged.entries.map(({ message }) => message);
  });
}

function rows(from: number, count: number): readonly Diagnostic[] {
  return Array.from({ length: count }, (_, index) => problem(`row ${from + index}`));
}

describe("logProblems", () => {
  it("logs a problem when it appears and when it is resolved, then without its consequences", () => {
    const fault = problem("no luck; all stands still");
    expect(logAll([0, [fault]], [100, [fault]], [200, []], [300, []])).toEqual([
      ["no luck; all stands still"],
      [],
      ["over: no luck"],
      [],
    ]);
  });

  it("logs ten lines per minute of problems that appear and disappear all the time, then how many were suppressed", () => {
    const passes = Array.from({ length: 600 }, (_, index) => [index * 100, rows(index, 1)] as const);
    const told = logAll(...passes, [60_000, rows(600, 1)]);
    const lines = told.slice(0, -1).flat();
    expect(lines.filter((line) => line.startsWith("row"))).toHaveLength(10);
    expect(lines.filter((line) => line.startsWith("over"))).toHaveLength(10);
    expect(told.at(-1)).toEqual(["row 600 (590 similar lines before it were not logged)"]);
  });

  it("logs a suppressed problem when the limit allows it and does not report it as resolved before", () => {
    const many = rows(0, 12);
    expect(logAll([0, many], [59_000, many], [60_000, many], [61_000, rows(0, 11)])).toEqual([
      many.slice(0, 10).map(({ message }) => message),
      [],
      ["row 10 (1 similar line before it was not logged)", "row 11"],
      ["over: row 11"],
    ]);
  });

  it("logs a problem of another kind at once while one kind is limited", () => {
    expect(
      logAll([0, rows(0, 20)], [100, [...rows(20, 20), problem("a typo", "config-invalid")]])[1],
    ).toContain("a typo");
  });

  it("does not limit problems that only the administrator can cause", () => {
    const ports = Array.from({ length: 30 }, (_, index) => problem(`port ${index}`, "port-in-use"));
    expect(logAll([0, ports])[0]).toHaveLength(30);
  });

  it("logs at once after the clock was set back", () => {
    expect(logAll([0, rows(0, 10)], [-3_600_000, rows(10, 1)])[1]).toContain("row 10");
  });
});

describe("limitEntries", () => {
  function state(guest: string, message: string): LogEntry {
    return {
      level: "info",
      event: "guest-status-changed",
      guest,
      message,
      limitKey: `forward-state ${guest}`,
    };
  }

  it("logs ten status changes per minute and guest, then how many were suppressed", () => {
    const entries = Array.from({ length: 30 }, (_, index) => state("web", `web: ${index}`));
    const first = limitEntries(EMPTY_PROBLEM_LOG, [...entries, state("db", "db: x")], NOW);
    expect(first.entries.map(({ guest }) => guest)).toEqual([...Array<string>(10).fill("web"), "db"]);
    const { entries: next } = limitEntries(first.log, [state("web", "web: y")], NOW + 60_000);
    expect(next.map(({ message }) => message)).toEqual([
      "web: y (20 similar lines before it were not logged)",
    ]);
  });

  it("never limits lines about rules", () => {
    const rules = Array.from({ length: 100 }, (): LogEntry => ({
      level: "info",
      event: "rule",
      message: "+ x",
    }));
    expect(limitEntries(EMPTY_PROBLEM_LOG, rules, NOW).entries).toEqual(rules);
  });
});
