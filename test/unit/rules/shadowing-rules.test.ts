import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseSave } from "../../../src/rules/parse-save.ts";
import type { ResolvedForward } from "../../../src/forwards/resolved-forward.ts";
import { findShadowingRules } from "../../../src/rules/shadowing-rules.ts";
import type { ShadowingRules } from "../../../src/rules/shadowing-rules.ts";
import { guest, ip } from "../../support/build-values.ts";

const JUMP =
  '-A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "kvmnatd:@jump" -j KVMNATD-DNAT';
const HOST = new Map([
  ["lo", [ip("127.0.0.1"), ip("::1")]],
  ["lan0", [ip("192.168.1.100"), ip("192.168.1.101"), ip("2001:db8::100")]],
]);

function publish(first: number, last: number, more: Partial<ResolvedForward> = {}): ResolvedForward {
  const ports = [{ published: [first, last], target: [first, last] }] as const;
  const [forward] = guest("web", { kind: "domain", domain: "web" }, ports).forwards;
  if (forward === undefined) throw new Error("no forward");
  const target = { address: ip("192.168.122.11"), mac: undefined, expiresAtMs: undefined };
  return { forward, family: 4, hostAddresses: [], target, why: undefined, ...more };
}

const FORWARD = publish(1122, 1130);
const ADVICE = "; delete it where it is made, and here with -D for -A, or publish another port";

function find(rules: readonly string[], forwards: readonly ResolvedForward[] = [FORWARD]): ShadowingRules {
  const chains = ["KVMNATD-DNAT", "A", "B", "C"].map((chain) => `:${chain} - [0:0]`);
  const text = ["*nat", ":PREROUTING ACCEPT [0:0]", ...chains, ...rules, "COMMIT", ""].join("\n");
  return findShadowingRules(parseSave(text), forwards, HOST, 4);
}

const messages = (rules: readonly string[], forwards?: readonly ResolvedForward[]): readonly string[] =>
  find(rules, forwards).problems.map(({ message }) => message);

describe("a foreign rule before our jump", () => {
  it.each([
    "-p tcp -m tcp --dport 1122:1130 -j DNAT --to-destination 192.168.122.12",
    "-p tcp -m tcp --dport 1000:2000 -j REDIRECT --to-ports 80",
    "-p tcp -m multiport --dports 80,1100:1200 -j ACCEPT",
    "-p tcp -m tcp ! --dport 22 -j REDIRECT --to-ports 80",
    "-p tcp -m tcp --dport 1122:1130 -j RETURN",
    "-p tcp -g A",
    "-d 192.168.1.0/24 -j DNAT --to-destination 192.168.122.5",
    "-d 192.168.1.0/24 -j NETMAP --to 10.0.0.0/24",
    "! -d 10.0.0.0/8 -j ACCEPT",
    "! -p udp -j ACCEPT",
    "-m addrtype --dst-type LOCAL -j DNAT --to-destination 192.168.122.5",
    "-m comment --comment mine -j ACCEPT",
  ])("decides for all packets of the port: %s", (rule) => {
    const { problems, taken } = find([`-A PREROUTING ${rule}`, JUMP]);
    const message = `a rule of another program stands before kvmnatd's and has the port of guest web (1122-1130/tcp): \`iptables -t nat -A PREROUTING ${rule}\`${ADVICE}`;
    expect(problems).toEqual([{ code: "rule-shadowed", message, severity: "error" }]);
    expect(taken.get(FORWARD)).toContain("has the port");
    expect(messages([JUMP, `-A PREROUTING ${rule}`]), "behind ours").toEqual([]);
  });

  it.each([
    "-p tcp -m tcp --dport 1122 -j DNAT --to-destination 192.168.122.12",
    "-d 192.168.1.100/32 -p tcp -m tcp --dport 1125 -j DNAT --to-destination 192.168.122.12",
    "-s 10.0.0.0/8 -p tcp -m tcp --dport 1000:2000 -j REDIRECT --to-ports 80",
    "! -i docker0 -p tcp -m tcp --dport 1122:1130 -j ACCEPT",
    "-d 192.168.1.101/32 -j DNAT --to-destination 192.168.122.5",
    "! -d 192.168.1.100/32 -j ACCEPT",
    "-p tcp -m multiport ! --dports 80,1125 -j ACCEPT",
    "-p tcp -m tcp --dport 1122:1130 -m socket -j ACCEPT",
  ])("decides for some packets of the port: %s", (rule) => {
    const { problems, taken } = find([`-A PREROUTING ${rule}`, JUMP]);
    const message = `a rule of another program stands before kvmnatd's, and what it matches does not reach guest web (1122-1130/tcp): \`iptables -t nat -A PREROUTING ${rule}\`${ADVICE}`;
    expect(problems).toEqual([{ code: "rule-shadowed", message, severity: "warning" }]);
    expect(taken.size).toBe(0);
  });

  it.each([
    "-p udp -m udp --dport 1122 -j DNAT --to-destination 192.168.122.11:22",
    "-p tcp -m tcp --dport 1131 -j DNAT --to-destination 192.168.122.11:22",
    "-p tcp -m tcp ! --dport 1122:1130 -j ACCEPT",
    "-d 10.0.0.1/32 -p tcp -m tcp --dport 1122 -j DNAT --to-destination 192.168.122.11:22",
    "! -d 192.168.1.0/24 -j ACCEPT",
    "-p tcp -m tcp --dport 1122 -m addrtype ! --dst-type LOCAL -j REDIRECT --to-ports 3128",
    "-m addrtype --dst-type BROADCAST -j ACCEPT",
    "-i tun0 -j ACCEPT",
    "-s 10.0.0.0/8 -j ACCEPT",
    "-m set --match-set friends src -j ACCEPT",
    "-m socket -j ACCEPT",
    "-i tun0 -g A",
    "-p tcp -m tcp --dport 1122 -j LOG",
    "-p tcp -m tcp --dport 1122",
    "! -p tcp -j ACCEPT",
  ])("decides for no packet of the port: %s", (rule) => {
    expect(messages([`-A PREROUTING ${rule}`, JUMP])).toEqual([]);
  });

  it("decides for the ports that a chain of Docker redirects", () => {
    const chain = [
      "-A A -i docker0 -j RETURN",
      "-A A ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
      "-A A ! -i docker0 -p tcp -m tcp --dport 1122 -j DNAT --to-destination 172.17.0.3:80",
    ];
    const jump = "-A PREROUTING -m addrtype --dst-type LOCAL -j A";
    expect(messages([jump, JUMP, ...chain])).toEqual([
      expect.stringMatching(/-A A ! -i docker0 .*172\.17\.0\.3/),
    ]);
    expect(messages([JUMP, jump, ...chain])).toEqual([]);
    expect(messages(["-A PREROUTING -p udp -j A", JUMP, ...chain])).toEqual([]);
  });

  it.each<[string, readonly string[], number]>([
    ["behind a port is the port's", ["-A PREROUTING -p tcp -m tcp --dport 1122 -j A", "-A A -j ACCEPT"], 1],
    ["behind an exception is an exception", ["-A PREROUTING -i tun0 -j A", "-A A -j B", "-A B -j ACCEPT"], 0],
    ["behind a return is nobody's", ["-A PREROUTING -j A", "-A A -j RETURN", "-A A -j ACCEPT"], 0],
    [
      "behind a return of some is the others'",
      ["-A PREROUTING -j A", "-A A -p udp -j RETURN", "-A A -j ACCEPT"],
      1,
    ],
    ["that is gone to, and returns, is nobody's", ["-A PREROUTING -j A", "-A A -g B", "-A A -j ACCEPT"], 0],
    ["behind what decides is nobody's", ["-A PREROUTING -j A", "-A A -j ACCEPT", "-A A -j ACCEPT"], 1],
  ])("in its own chain: %s", (_what, [first = "", ...rules], count) => {
    expect(messages([first, JUMP, ...rules])).toHaveLength(count);
  });

  it("costs little when many chains jump to each other in many ways", () => {
    const names = Array.from({ length: 30 }, (_, index) => `X${index}`);
    const rules = names.flatMap((name, index) => [
      `-A ${name} -j X${index + 1}`,
      `-A ${name} -j X${index + 1}`,
    ]);
    const chains = [...names, "X30"].map((name) => `:${name} - [0:0]`);
    const text = [
      "*nat",
      ":PREROUTING ACCEPT [0:0]",
      ...chains,
      "-A PREROUTING -j X0",
      JUMP,
      ...rules,
      "COMMIT",
    ];
    expect(findShadowingRules(parseSave(`${text.join("\n")}\n`), [FORWARD], HOST, 4).problems).toEqual([]);
  });

  it("is reported eight times, then only that there are more", () => {
    const rules = Array.from(
      { length: 13 },
      (_, index) => `-A PREROUTING -i eth${index} -p tcp -m tcp --dport 1122 -j ACCEPT`,
    );
    expect(messages([...rules, JUMP]).slice(7)).toEqual([
      expect.stringContaining("-i eth7 "),
      "more rules of other programs stand before kvmnatd's in nat PREROUTING",
    ]);
    expect(messages([`${rules[0]}`, `${rules[0]}`, JUMP]), "twice the same").toHaveLength(1);
  });

  it("is reported with three of the forwards that lose packets", () => {
    const many = [1, 2, 3, 4, 5].map((port) => publish(port, port));
    expect(messages(["-A PREROUTING -j ACCEPT", JUMP], many)[0]).toContain(
      "guest web (1/tcp), guest web (2/tcp), guest web (3/tcp) and 2 more: `",
    );
  });

  it.each<[string, Partial<ResolvedForward>]>([
    ["of the other family", { family: 6 }],
    ["on another address", { hostAddresses: [ip("192.168.1.101")] }],
    ["on 127.0.0.1 alone", { hostAddresses: [ip("127.0.0.1")] }],
  ])("decides for no packet of a forward %s", (_what, more) => {
    const rule = "-A PREROUTING -d 192.168.1.100/32 -p tcp -m tcp --dport 1122 -j ACCEPT";
    expect(messages([rule, JUMP], [publish(1122, 1122, more)])).toEqual([]);
    expect(messages([rule, JUMP], [publish(1122, 1122)])).toHaveLength(1);
  });

  it("is not reported for a pending forward", () => {
    const pending = { ...FORWARD, target: undefined };
    expect(messages(["-A PREROUTING -j ACCEPT", JUMP], [pending])).toEqual([]);
  });

  it("is not reported without our jump", () => {
    expect(messages(["-A PREROUTING -j ACCEPT"])).toEqual([]);
    expect(findShadowingRules(undefined, [FORWARD], HOST, 4).problems).toEqual([]);
  });

  it("decides for all packets of a port exactly when none of them reaches our jump", () => {
    const condition = fc.constantFrom(
      "",
      "-p tcp ",
      "! -p tcp ",
      "-p tcp -m tcp --dport 1122 ",
      "-p tcp -m tcp ! --dport 1122 ",
      "-p tcp -m tcp --dport 80 ",
      "-d 192.168.1.0/24 ",
      "-d 10.0.0.1/32 ",
      "! -d 192.168.1.0/24 ",
    );
    const rules = (...chains: readonly string[]): fc.Arbitrary<readonly string[]> => {
      const target = fc.constantFrom(
        "-j ACCEPT",
        "-j REDIRECT",
        "-j LOG",
        "-j RETURN",
        ...chains.flatMap((to) => [`-j ${to}`, `-g ${to}`, `-j ${to}`]),
      );
      const rule = fc.tuple(condition, target).map(([when, to]) => when + to);
      return fc.array(rule, { maxLength: 4 });
    };
    const graphs = fc.record({
      A: rules(),
      B: rules("A"),
      C: rules("A", "B"),
      PREROUTING: rules("A", "B", "C"),
    });
    fc.assert(
      fc.property(graphs, (graph) => {
        const chains = new Map(Object.entries(graph));
        const isTaken = lead(graph.PREROUTING, chains, true) === "decided";
        const lines = (chain: keyof typeof graph): readonly string[] =>
          graph[chain].map((rule) => `-A ${chain} ${rule}`);
        const forward = publish(1122, 1122);
        const { taken } = find(
          [...lines("PREROUTING"), JUMP, ...lines("A"), ...lines("B"), ...lines("C")],
          [forward],
        );
        expect(taken.has(forward)).toBe(isTaken);
      }),
      { numRuns: 2000 },
    );
  });
});

/** A packet to port 1122/tcp of 192.168.1.100: whether it comes to the rule behind these. */
function lead(
  rules: readonly string[],
  chains: ReadonlyMap<string, readonly string[]>,
  isBase: boolean,
): "decided" | "returned" | "goes on" {
  const matches = /^(-p tcp |! -p udp |-p tcp -m tcp --dport 1122 |-d 192\.168\.1\.0\/24 )?-([jg]) (\w+)$/;
  for (const rule of rules) {
    const [, , how, target = ""] = matches.exec(rule) ?? [];
    if (target === "ACCEPT" || target === "REDIRECT") return "decided";
    if (target === "RETURN") return isBase ? "decided" : "returned";
    const chain = chains.get(target);
    if (chain === undefined) continue;
    if (lead(chain, chains, false) === "decided") return "decided";
    if (how === "g") return isBase ? "decided" : "returned";
  }
  return "goes on";
}
