import { describe, expect, it } from "vitest";
import { parseCounters } from "../../../src/rules/parse-save.ts";
import { countForwards } from "../../../src/status/counters.ts";
import type { ForwardStatus } from "../../../src/status/status.ts";
import { forwardStatus } from "../../support/status-values.ts";

describe("countForwards", () => {
  const counted = (text: string, ...forwards: readonly ForwardStatus[]): readonly (number | null)[] => {
    const rules = new Map([[4 as const, parseCounters(text, "KVMNATD-DNAT")]]);
    return countForwards(forwards, rules).map(({ packets }) => packets);
  };
  const rule = (packets: number, match: string, guest = "web"): string =>
    `[${packets}:100] -A KVMNATD-DNAT ${match} -m comment --comment "kvmnatd:${guest}" -j DNAT --to-destination 192.168.122.11:22\n`;
  const PORT = "-p tcp -m tcp --dport 1122";

  it.each<[string, string, readonly ForwardStatus[], readonly (number | null)[]]>([
    ["one rule", rule(3, PORT), [forwardStatus()], [3]],
    [
      "a rule for each source",
      rule(3, `-s 10.0.0.0/8 ${PORT}`) + rule(4, `-s 192.0.2.0/24 ${PORT}`),
      [forwardStatus()],
      [7],
    ],
    ["no rule", "", [forwardStatus()], [null]],
    ["no rule of another guest", rule(3, PORT, "db"), [forwardStatus()], [null]],
    [
      "the rules of its own address, and of 127.0.0.1",
      rule(1, `-d 198.51.100.1/32 ${PORT}`) +
        rule(2, `-d 198.51.100.9/32 ${PORT}`) +
        rule(4, `-d 127.0.0.1/32 ${PORT}`),
      [forwardStatus({ listen: ["198.51.100.1"] }), forwardStatus({ listen: ["198.51.100.9"] })],
      [5, 2],
    ],
    [
      "the rule of a range",
      rule(6, "-p tcp -m tcp --dport 8000:8010"),
      [forwardStatus({ published: "8000-8010", target: "80-90" })],
      [6],
    ],
  ])("gives a forward the packets of %s", (_, text, forwards, expected) => {
    expect(counted(text, ...forwards)).toEqual(expected);
  });
});
