import { describe, expect, it } from "vitest";
import type { Change, Diff } from "../../../src/rules/diff.ts";
import {
  commandOf,
  findObsoleteForeignChainRules,
  planOperations,
  removeByPlace,
  rewriteOwnChains,
  withoutObsoleteForeignChainRules,
} from "../../../src/rules/restore.ts";
import { NOTHING_DESIRED } from "../../../src/rules/ruleset.ts";
import type { Table } from "../../../src/rules/ruleset.ts";

const create = (table: Table, chain: string): Change => ({ kind: "create-chain", table, chain });
const erase = (table: Table, chain: string): Change => ({ kind: "delete-chain", table, chain });
const add = (table: Table, chain: string, rule: string, position?: number): Change => ({
  kind: "add",
  table,
  chain,
  rule,
  position: position ?? 1,
  last: position === undefined,
});
const remove = (table: Table, chain: string, rule: string, place?: number): Change => ({
  kind: "remove",
  table,
  chain,
  rule,
  place,
  blocker: undefined,
});
const nftAdd: Change = {
  kind: "add",
  table: "libvirt_network",
  chain: "kvmnatd",
  rule: 'oifname "virbr0" accept',
  last: true,
};
const nftRemove: Change = {
  kind: "remove",
  table: "libvirt_network",
  chain: "kvmnatd",
  rule: 'oifname "virbr0" accept',
  handle: 7,
  blocker: undefined,
};

const scripts = (diff: Diff): readonly string[] =>
  planOperations(4, diff).map(
    ({ program, input, ruleCount }) => `${program} (${ruleCount})\n${input.trimEnd()}`,
  );

describe("the operations of a diff", () => {
  it.each<readonly [string, Diff, readonly string[]]>([
    ["are empty for an empty diff", [], []],
    [
      "guard first, accept next and redirect last when rules are added",
      [
        create("nat", "KVMNATD-DNAT"),
        add("nat", "KVMNATD-DNAT", "-j DNAT"),
        add("filter", "FORWARD", "-j KVMNATD-FWD", 2),
        add("raw", "PREROUTING", "-j DROP", 1),
        nftAdd,
      ],
      [
        'nft (1)\nadd rule ip libvirt_network kvmnatd oifname "virbr0" accept',
        [
          "iptables-restore (3)",
          "*raw\n-I PREROUTING 1 -j DROP\nCOMMIT",
          "*filter\n-I FORWARD 2 -j KVMNATD-FWD\nCOMMIT",
          "*nat\n:KVMNATD-DNAT - [0:0]\n-A KVMNATD-DNAT -j DNAT\nCOMMIT",
        ].join("\n"),
      ],
    ],
    [
      "stop redirecting first, accepting next and guarding last when rules are removed",
      [
        remove("raw", "PREROUTING", "-j DROP", 1),
        remove("filter", "FORWARD", "-j KVMNATD-FWD", 2),
        remove("nat", "KVMNATD-DNAT", "-j DNAT"),
        erase("nat", "KVMNATD-DNAT"),
        nftRemove,
      ],
      [
        [
          "iptables-restore (3)",
          "*nat\n-D KVMNATD-DNAT -j DNAT\n-X KVMNATD-DNAT\nCOMMIT",
          "*filter\n-D FORWARD -j KVMNATD-FWD\nCOMMIT",
          "*raw\n-D PREROUTING -j DROP\nCOMMIT",
        ].join("\n"),
        "nft (1)\ndelete rule ip libvirt_network kvmnatd handle 7",
      ],
    ],
    [
      "keep a line break of a foreign comment from starting a line",
      [remove("nat", "PREROUTING", '-m comment --comment "a\n-F" -j KVMNATD-DNAT', 1)],
      ['iptables-restore (1)\n*nat\n-D PREROUTING -m comment --comment "a -F" -j KVMNATD-DNAT\nCOMMIT'],
    ],
  ])("%s", (_what, diff, expected) => {
    expect(scripts(diff)).toEqual(expected);
  });
});

describe("a diff whose rules cannot be deleted by their text", () => {
  const FIRST = remove("nat", "PREROUTING", "-m recent --set -j KVMNATD-DNAT", 1);
  const SECOND = remove("nat", "PREROUTING", "-j KVMNATD-DNAT", 3);
  const MOVED = [
    remove("filter", "FORWARD", "-j KVMNATD-FWD", 2),
    add("filter", "FORWARD", "-j KVMNATD-FWD", 1),
  ];

  it("deletes them by position from the end, and a moved rule by its text", () => {
    expect(findObsoleteForeignChainRules([FIRST, SECOND, ...MOVED])).toEqual([FIRST, SECOND]);
    expect(scripts(removeByPlace([FIRST, SECOND, ...MOVED]))).toEqual([
      "iptables-restore (4)\n*filter\n-D FORWARD -j KVMNATD-FWD\n-I FORWARD 1 -j KVMNATD-FWD\nCOMMIT\n" +
        "*nat\n-D PREROUTING 3\n-D PREROUTING 1\nCOMMIT",
    ]);
  });

  it("leaves them when they cannot be deleted at all", () => {
    expect(withoutObsoleteForeignChainRules([FIRST, SECOND, ...MOVED])).toEqual(MOVED);
  });

  it("rewrites only those of our chains that lose a rule", () => {
    const desired = {
      ...NOTHING_DESIRED,
      chains: {
        ...NOTHING_DESIRED.chains,
        nat: new Map([
          ["KVMNATD-DNAT", ["-j A", "-j B"]],
          ["KVMNATD-SNAT", ["-j C"]],
        ]),
      },
    };
    const diff = [
      remove("nat", "KVMNATD-DNAT", "-j X"),
      add("nat", "KVMNATD-DNAT", "-j B", 2),
      add("nat", "KVMNATD-SNAT", "-j C"),
    ];
    expect(scripts(rewriteOwnChains(diff, desired))).toEqual([
      "iptables-restore (3)\n*nat\n:KVMNATD-DNAT - [0:0]\n-A KVMNATD-DNAT -j A\n-A KVMNATD-DNAT -j B\n" +
        "-A KVMNATD-SNAT -j C\nCOMMIT",
    ]);
  });
});

it.each<readonly [Change, string]>([
  [create("nat", "KVMNATD-DNAT"), "iptables -t nat -N KVMNATD-DNAT"],
  [erase("nat", "KVMNATD-DNAT"), "iptables -t nat -X KVMNATD-DNAT"],
  [add("nat", "KVMNATD-DNAT", "-j A"), "iptables -t nat -A KVMNATD-DNAT -j A"],
  [remove("nat", "KVMNATD-DNAT", "-j A"), "iptables -t nat -D KVMNATD-DNAT -j A"],
  [nftAdd, 'nft add rule ip libvirt_network kvmnatd oifname "virbr0" accept'],
  [nftRemove, 'nft delete rule ip libvirt_network kvmnatd oifname "virbr0" accept'],
])("prints a change as the command %#", (change, expected) => {
  expect(commandOf(4, change)).toBe(expected);
});
