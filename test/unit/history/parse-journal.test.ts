import { describe, expect, it } from "vitest";
import { parseBoots, parseJournalEntry } from "../../../src/history/parse-journal.ts";

const COMMON = `"__CURSOR":"s=48f6a9","__REALTIME_TIMESTAMP":"1795527598147886","_BOOT_ID":"de1659b92c144a39b6439f25f40718c5","_PID":"4248"`;
const common = { atMs: 1_795_527_598_147.886, boot: "de1659b92c144a39b6439f25f40718c5", pid: "4248" };

describe("an entry of journalctl -o json", () => {
  it.each([
    ["without fields", `"MESSAGE":"+ iptables"`, { message: "+ iptables" }],
    [
      "with fields",
      `"MESSAGE":"m","KVMNATD_EVENT":"rule","KVMNATD_GUEST":"web","KVMNATD_PASS":"7","KVMNATD_REASON":"start"`,
      { message: "m", event: "rule", guest: "web", pass: "7", reason: "start" },
    ],
    ["that is not printable", `"MESSAGE":[119,27,195,164]`, { message: "w\u001bä" }],
    ["with a field twice", `"MESSAGE":["a","b"]`, { message: "a" }],
    ["with a field that is empty", `"MESSAGE":"m","KVMNATD_GUEST":null`, { message: "m" }],
  ])("%s", (_what, fields, expected) => {
    expect(parseJournalEntry(`{${COMMON},${fields}}`)).toEqual({ ...common, ...expected });
  });

  it.each([`{${COMMON}}`, `{${COMMON},"MESS`, "", "{}"])("none: %s", (line) => {
    expect(parseJournalEntry(line)).toBeUndefined();
  });
});

it("reads the boots, of old and new systemd", () => {
  const text = `IDX BOOT ID                          FIRST ENTRY                 LAST ENTRY
 -1 3d1219c7c4c5404aaa1f6d2a48adfda4 Mon 2026-11-23 22:39:58 UTC Mon 2026-11-23 23:00:00 UTC
  0 de1659b92c144a39b6439f25f40718c5 Tue 2026-11-24 13:39:58 UTC—Tue 2026-11-24 13:40:00 UTC
`;
  expect(parseBoots(text)).toEqual([
    { id: "3d1219c7c4c5404aaa1f6d2a48adfda4", lastMs: Date.UTC(2026, 10, 23, 23) },
    { id: "de1659b92c144a39b6439f25f40718c5", lastMs: Date.UTC(2026, 10, 24, 13, 40) },
  ]);
});
