import { describe, expect, it } from "vitest";
import { readHistory } from "../../../src/history/holdings.ts";
import type { History } from "../../../src/history/holdings.ts";
import { selectHistory } from "../../../src/history/filter.ts";
import type { Selection } from "../../../src/history/filter.ts";
import type { JournalEntry } from "../../../src/history/parse-journal.ts";
import type { DaemonStatus, ForwardStatus } from "../../../src/status/status.ts";
import { daemonStatus, forwardStatus } from "../../support/status-values.ts";

const MINUTE = 60_000;
const BOOTS = [
  { id: "one", lastMs: 99 * MINUTE },
  { id: "two", lastMs: 1000 * MINUTE },
];

interface RuleText {
  readonly guest?: string;
  readonly port?: string;
  readonly to?: string;
  readonly match?: string;
  readonly program?: string;
}

const rule = ({ guest = "web", port = "1122", to = "192.168.122.11:22", match = "" }: RuleText): string =>
  `${match}-p tcp -m tcp --dport ${port} -m comment --comment "kvmnatd:${guest} 52:54:00:6c:3c:01" -j DNAT --to-destination ${to}`;

const added = (text: RuleText = {}): string =>
  `+ ${text.program ?? "iptables"} -t nat -A KVMNATD-DNAT ${rule(text)}`;
const inserted = (text: RuleText = {}): string => `+ iptables -t nat -I KVMNATD-DNAT 3 ${rule(text)}`;
const removed = (text: RuleText = {}): string => `- iptables -t nat -D KVMNATD-DNAT ${rule(text)}`;

/** One pass of the daemon, without fields; a second between the passes would be too little. */
function pass(minute: number, ...lines: readonly string[]): readonly JournalEntry[] {
  const fields = { event: undefined, guest: undefined, reason: undefined, pass: undefined };
  return lines.map((message, index) => ({
    atMs: minute * MINUTE + index,
    boot: "two",
    pid: "7",
    message,
    ...fields,
  }));
}

/** The same with fields. */
function told(minute: number, guest: string, ...lines: readonly string[]): readonly JournalEntry[] {
  return pass(minute, ...lines).map((entry, index) => ({
    ...entry,
    event: index === 0 ? "forward-moved" : "rule",
    guest,
    reason: "virbr0.status",
    pass: `${minute}`,
  }));
}

/** `web *:1122 -> TARGET FROM..TO`, in minutes. */
function summarize({ holdings }: History): readonly string[] {
  const minutes = (ms: number | undefined): string => (ms === undefined ? "" : `${Math.floor(ms / MINUTE)}`);
  return holdings.map(
    ({ guest, listen, published, target, fromMs, toMs }) =>
      `${guest} ${listen ?? "*"}:${published.first} -> ${target} ${minutes(fromMs)}..${minutes(toMs)}`,
  );
}

const ALL: Selection = {
  guest: undefined,
  port: undefined,
  protocol: undefined,
  sinceMs: undefined,
  untilMs: undefined,
};

const read = (
  entries: readonly (readonly JournalEntry[])[],
  selection: Partial<Selection> = {},
  status?: DaemonStatus,
): History => selectHistory(readHistory(entries.flat(), BOOTS, status), { ...ALL, ...selection });

const HEAD = "web: forwarded to 192.168.122.11 (start)";
const FIRST = "192.168.122.11:22";
const SECOND = "192.168.122.57:22";

describe("the history", () => {
  it.each<readonly [string, readonly (readonly JournalEntry[])[], readonly string[]]>([
    ["is empty without entries", [], []],
    ["has an open holding for a rule that stays", [pass(1, HEAD, added())], [`web *:1122 -> ${FIRST} 1..`]],
    [
      "ends the holding when its rule is removed",
      [pass(1, HEAD, added()), pass(2, "web: no longer published (config)", removed())],
      [`web *:1122 -> ${FIRST} 1..2`],
    ],
    [
      "ends one holding and begins another when the guest moves",
      [pass(1, HEAD, added()), pass(2, "web: a -> b (x)", removed(), inserted({ to: SECOND }))],
      [`web *:1122 -> ${FIRST} 1..2`, `web *:1122 -> ${SECOND} 2..`],
    ],
    [
      "continues the holding when its rule is restored",
      [pass(1, HEAD, added()), pass(2, "web: rules brought up to date (ruleset changed)", added())],
      [`web *:1122 -> ${FIRST} 1..`],
    ],
    [
      "continues the holding when its rule moves within its chain",
      [pass(1, HEAD, added()), pass(2, "web: rules brought up to date (x)", removed(), inserted())],
      [`web *:1122 -> ${FIRST} 1..`],
    ],
    [
      "recognises the same rule in another text",
      [
        pass(1, HEAD, added({ match: "-d 192.0.2.1/32 " })),
        pass(
          2,
          "web: no longer published (config)",
          removed({ match: "-d 192.0.2.1 " }).replace("-m tcp ", ""),
        ),
      ],
      [`web 192.0.2.1:1122 -> ${FIRST} 1..2`],
    ],
    [
      "continues the holding when only the MAC changes",
      [
        pass(1, HEAD, added()),
        pass(
          2,
          "web: rules brought up to date (x)",
          removed(),
          inserted().replace("3c:01", "3c:99"),
          removed({ port: "9" }),
        ),
      ],
      [`web *:9 -> ${FIRST} ..2`, `web *:1122 -> ${FIRST} 1..`],
    ],
    [
      "has no beginning for a holding whose first entry is its end",
      [pass(2, "web: a -> b (x)", removed(), inserted({ to: SECOND }))],
      [`web *:1122 -> ${FIRST} ..2`, `web *:1122 -> ${SECOND} 2..`],
    ],
    [
      "ends the holding with the rule of its last source",
      [
        pass(1, HEAD, added({ match: "-s 10.0.0.0/8 " }), added({ match: "-s 203.0.113.7/32 " })),
        pass(2, "web: rules brought up to date (config)", removed({ match: "-s 203.0.113.7/32 " })),
        pass(3, "web: no longer published (config)", removed({ match: "-s 10.0.0.0/8 " })),
      ],
      [`web *:1122 -> ${FIRST} 1..3`],
    ],
    [
      "continues the holding when only a second copy of its rule is removed",
      [
        pass(1, HEAD, added()),
        pass(2, "web: rules brought up to date (x)", removed()),
        pass(3, "web: no longer published (config)", removed()),
      ],
      [`web *:1122 -> ${FIRST} 1..3`],
    ],
    [
      "follows a port from one guest to another",
      [
        told(1, "web", HEAD, added()),
        told(2, "web", "web: no longer published (config)", removed()),
        told(2, "db", "db: forwarded to 192.168.122.12 (config)", added({ guest: "db" })),
      ],
      [`web *:1122 -> ${FIRST} 1..2`, `db *:1122 -> ${FIRST} 2..`],
    ],
    [
      "reads IPv6 rules, ranges and targets without a port",
      [
        pass(1, HEAD, added({ program: "ip6tables", to: "[fd00::1]:22", match: "-d fd01::1/128 " })),
        pass(1, HEAD, added({ port: "5000:5010", to: "192.168.122.11" })),
        pass(1, HEAD, added({ port: "30000:30099", to: "192.168.122.11:40000-40099/30000" })),
      ],
      [
        "web fd01::1:1122 -> [fd00::1]:22 1..",
        "web *:5000 -> 192.168.122.11:5000-5010 1..",
        "web *:30000 -> 192.168.122.11:40000-40099 1..",
      ],
    ],
    [
      "reads the guest's name from the rule's comment",
      [pass(1, HEAD, added({ guest: "w%c3%a4b%20x" }))],
      [`wäb x *:1122 -> ${FIRST} 1..`],
    ],
    [
      "ignores foreign rules and other chains",
      [
        pass(
          1,
          HEAD,
          "+ iptables -t nat -A KVMNATD-DNAT -p tcp --dport 1 -j DNAT --to-destination 192.0.2.1",
          "+ iptables -t filter -N KVMNATD-FWD",
          "- iptables",
        ),
      ],
      [],
    ],
  ])("%s", (_what, entries, expected) => {
    expect(summarize(read(entries))).toEqual(expected);
  });

  it("ends all holdings with the host, though nothing is logged", () => {
    const before = pass(1, HEAD, added()).map((entry) => ({ ...entry, boot: "one" }));
    expect(summarize(read([before]))).toEqual([`web *:1122 -> ${FIRST} 1..99`]);
    const after = read([before, pass(120, HEAD, added())]);
    expect(summarize(after)).toEqual([`web *:1122 -> ${FIRST} 1..99`, `web *:1122 -> ${FIRST} 120..`]);
    expect(after.holdings[0]?.ended).toEqual({ why: "the host went down", trigger: null });
    expect(summarize(read([before, pass(120, HEAD, added())], { sinceMs: 110, untilMs: 110 }))).toEqual([]);
  });

  it("gives the reason for each beginning and end, and the sources", () => {
    const entries = [
      told(1, "web", HEAD.replace("start", "virbr0.status"), added({ match: "-s 10.0.0.0/8 " })),
      pass(
        2,
        "web: 192.168.122.11 -> none; guest is off (virbr0.macs)",
        removed({ match: "-s 10.0.0.0/8 " }),
      ),
    ];
    expect(read(entries)).toMatchObject({
      beginsMs: MINUTE,
      holdings: [
        {
          allow: ["10.0.0.0/8"],
          began: { why: "forwarded to 192.168.122.11", trigger: "virbr0.status" },
          ended: { why: "192.168.122.11 -> none; guest is off", trigger: "virbr0.macs" },
        },
      ],
      events: [
        { atMs: MINUTE, guest: "web", event: "forward-moved" },
        { atMs: 2 * MINUTE, guest: "web", event: null },
      ],
    });
  });
});

describe("a forward that is active now", () => {
  const status = (more: Partial<ForwardStatus> = {}, minute = 10): DaemonStatus =>
    daemonStatus({
      updatedAt: new Date(minute * MINUTE).toISOString(),
      forwards: [forwardStatus(more)],
    });

  it.each<readonly [string, DaemonStatus, readonly (readonly JournalEntry[])[], readonly string[]]>([
    ["was always there when no entry begins it", status(), [], [`web *:1122 -> ${FIRST} ..`]],
    [
      "begins with its entry",
      status(),
      [pass(1, HEAD, added({ match: "-s 10.0.0.0/8 " }))],
      [`web *:1122 -> ${FIRST} 1..`],
    ],
    [
      "did not end when a second copy of its rule was removed",
      status(),
      [pass(1, HEAD, added()), pass(2, "web: rules brought up to date (x)", removed())],
      [`web *:1122 -> ${FIRST} 1..`],
    ],
    [
      "keeps an end that is newer than the status",
      status({}, 2),
      [pass(1, HEAD, added()), pass(3, "web: no longer published (config)", removed())],
      [`web *:1122 -> ${FIRST} 1..3`],
    ],
    ["does not include a pending one", status({ state: "pending", address: null }), [], []],
    [
      "has one holding for each of its addresses",
      status({ listen: ["192.0.2.1", "192.0.2.2"] }),
      [pass(1, HEAD, added({ match: "-d 192.0.2.1/32 " }))],
      [`web 192.0.2.1:1122 -> ${FIRST} 1..`, `web 192.0.2.2:1122 -> ${FIRST} ..`],
    ],
  ])("%s", (_what, now, entries, expected) => {
    expect(summarize(read(entries, {}, now))).toEqual(expected);
  });
});

describe("a selection", () => {
  const entries = [
    pass(10, HEAD, added()),
    pass(20, "web: a -> b (x)", removed(), inserted({ to: SECOND })),
    pass(
      30,
      "db: forwarded to 192.168.122.12 (config)",
      added({ guest: "db", port: "2000:2010", to: "10.0.0.1" }),
    ),
    pass(40, "db: pending; guest is off (x)", removed({ guest: "db", port: "2000:2010", to: "10.0.0.1" })),
    pass(50, "far: pending; no live lease (x)"),
  ];
  const db = "db *:2000 -> 10.0.0.1:2000-2010 30..40";
  const first = `web *:1122 -> ${FIRST} 10..20`;
  const second = `web *:1122 -> ${SECOND} 20..`;

  it.each<readonly [Partial<Selection>, readonly string[], number]>([
    [{}, [first, second, db], 5],
    [{ guest: "db" }, [db], 2],
    [{ guest: "far" }, [], 1],
    [{ port: 2005 }, [db], 2],
    [{ port: 2011 }, [], 0],
    [{ port: 1122, protocol: "tcp" }, [first, second], 2],
    [{ port: 1122, protocol: "udp" }, [], 0],
    [{ sinceMs: 35 * MINUTE }, [second, db], 2],
    [{ untilMs: 15 * MINUTE }, [first], 1],
    [{ sinceMs: 15 * MINUTE, untilMs: 15 * MINUTE }, [first], 0],
    [{ sinceMs: 5 * MINUTE, untilMs: 5 * MINUTE }, [], 0],
  ])("contains what matches %j", (selection, expected, events) => {
    const found = read(entries, selection);
    expect(summarize(found)).toEqual(expected);
    expect(found.events).toHaveLength(events);
  });

  it("excludes the time before the journal", () => {
    const cut = [pass(20, "web: a -> b (x)", removed(), inserted({ to: SECOND }))];
    expect(summarize(read(cut, { sinceMs: 19 * MINUTE, untilMs: 19 * MINUTE }))).toEqual([]);
    expect(summarize(read(cut, { sinceMs: 19 * MINUTE }))).toEqual([`web *:1122 -> ${FIRST} ..20`, second]);
  });
});

describe("a holding whose rule another program removed", () => {
  it("ends when its port is forwarded to another guest or address", () => {
    const moved = { to: "192.168.122.12:22" };
    expect(summarize(read([told(1, "web", HEAD, added()), told(5, "web", HEAD, added(moved))]))).toEqual([
      "web *:1122 -> 192.168.122.11:22 1..5",
      "web *:1122 -> 192.168.122.12:22 5..",
    ]);
  });

  it("ends also when it was open to some sources only", () => {
    const narrow = added({ guest: "a", match: "-s 10.0.0.0/8 " });
    expect(summarize(read([told(1, "a", HEAD, narrow), told(5, "b", HEAD, added({ guest: "b" }))]))).toEqual([
      "a *:1122 -> 192.168.122.11:22 1..5",
      "b *:1122 -> 192.168.122.11:22 5..",
    ]);
  });

  it("continues when the port is published at another address of the host", () => {
    const entries = told(
      1,
      "web",
      HEAD,
      added(),
      added({ match: "-d 198.51.100.1/32 ", to: "192.168.122.13:22" }),
    );
    expect(summarize(read([entries])).every((line) => line.endsWith(".."))).toBe(true);
    expect(read([entries]).holdings).toHaveLength(2);
  });
});
