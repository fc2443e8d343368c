import { describe, expect, it } from "vitest";
import { parseSave } from "../../../src/core/parse-save.ts";
import type { ResolvedForward } from "../../../src/core/publish.ts";
import { findRulesBefore } from "../../../src/core/rules-before.ts";
import { guest, ip } from "../../support/build-values.ts";

const JUMP =
  '-A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "kvmnatd:@jump" -j KVMNATD-DNAT';
const HOST = new Map([
  ["lo", [ip("127.0.0.1"), ip("::1")]],
  ["lan0", [ip("192.168.1.100"), ip("192.168.1.101")]],
]);

const [forward] = guest("web", { kind: "domain", domain: "web" }, [
  { published: [1122, 1130], target: [22, 30] },
]).forwards;
if (forward === undefined) throw new Error("no forward");
const resolved: ResolvedForward = {
  forward,
  family: 4,
  hostAddresses: [],
  target: { address: ip("192.168.122.11") },
};

function messages(
  rules: readonly string[],
  forwards: readonly ResolvedForward[] = [resolved],
): readonly string[] {
  const chains = ["KVMNATD-DNAT", "DOCKER", "DEEPER"].map((chain) => `:${chain} - [0:0]`);
  const text = ["*nat", ":PREROUTING ACCEPT [0:0]", ...chains, ...rules, "COMMIT", ""].join("\n");
  return findRulesBefore(parseSave(text), forwards, HOST, 4).map(({ message }) => message);
}

describe("before ours", () => {
  it.each([
    "-p tcp -m tcp --dport 1122 -j DNAT --to-destination 192.168.122.11:22",
    "-d 192.168.1.100/32 -p tcp -m tcp --dport 1125 -j DNAT --to-destination 192.168.122.11:22",
    "-s 10.0.0.0/8 -i lan0 -p tcp -m tcp --dport 1000:2000 -j REDIRECT --to-ports 80",
    "-p tcp -m multiport --dports 80,1130,8000:8010 -j ACCEPT",
    "! -d 192.168.1.100/32 -p tcp -m tcp --dport 1122 -j ACCEPT",
    "-d 192.168.1.101/32 -j DNAT --to-destination 192.168.122.5",
    "-p tcp -j ACCEPT",
    "-m addrtype --dst-type LOCAL -j DNAT --to-destination 192.168.122.5",
    "-m comment --comment mine -j ACCEPT",
  ])("%s has the port", (rule) => {
    expect(messages([`-A PREROUTING ${rule}`, JUMP])).toEqual([
      "a rule of another program stands before kvmnatd's, and what it matches does not reach guest web (port 1122-1130/tcp): " +
        `\`iptables -t nat -A PREROUTING ${rule}\``,
    ]);
    expect(messages([JUMP, `-A PREROUTING ${rule}`]), "behind ours").toEqual([]);
  });

  it.each([
    "-p udp -m udp --dport 1122 -j DNAT --to-destination 192.168.122.11:22",
    "-p tcp -m tcp --dport 1131 -j DNAT --to-destination 192.168.122.11:22",
    "-p tcp -m multiport ! --dports 80,443 -j ACCEPT",
    "-d 10.0.0.1/32 -p tcp -m tcp --dport 1122 -j DNAT --to-destination 192.168.122.11:22",
    "! -d 192.168.1.0/24 -j ACCEPT",
    "-i tun0 -j ACCEPT",
    "-s 10.0.0.0/8 -j ACCEPT",
    "-m set --match-set friends src -j ACCEPT",
    "-p tcp -m tcp --dport 1122 -j LOG",
    "-p tcp -m tcp --dport 1122",
    "! -p tcp -j ACCEPT",
  ])("%s has it not", (rule) => {
    expect(messages([`-A PREROUTING ${rule}`, JUMP])).toEqual([]);
  });

  it("a chain of Docker's has the ports that lead to it, and are in it", () => {
    const chain = [
      "-A DOCKER -i docker0 -j RETURN",
      "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
      "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 1122 -j DNAT --to-destination 172.17.0.3:80",
    ];
    const jump = "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER";
    expect(messages([jump, JUMP, ...chain])).toEqual([
      expect.stringMatching(/-A DOCKER ! -i docker0 .*172\.17\.0\.3/),
    ]);
    expect(messages([JUMP, jump, ...chain])).toEqual([]);
    expect(messages(["-A PREROUTING -p udp -j DOCKER", JUMP, ...chain])).toEqual([]);
  });

  it("a chain behind a port or an exception is a port's, or an exception's", () => {
    const deeper = "-A DOCKER -j DEEPER";
    const accept = "-A DEEPER -j ACCEPT";
    expect(
      messages(["-A PREROUTING -p tcp -m tcp --dport 1122 -j DOCKER", JUMP, deeper, accept]),
    ).toHaveLength(1);
    expect(messages(["-A PREROUTING -i tun0 -j DOCKER", JUMP, deeper, accept])).toEqual([]);
  });

  it("chains in circles, which the kernel does not allow, end", () => {
    const circle = ["-A DOCKER -j DEEPER", "-A DEEPER -j DOCKER", "-A DEEPER -j ACCEPT"];
    expect(messages(["-A PREROUTING -j DOCKER", JUMP, ...circle])).toHaveLength(1);
  });

  it("counts what is too much to be told", () => {
    const rules = Array.from(
      { length: 13 },
      (_, index) => `-A PREROUTING -i eth${index} -p tcp -m tcp --dport 1122 -j ACCEPT`,
    );
    expect(messages([...rules, JUMP]).slice(9)).toEqual([
      expect.stringContaining("-i eth9 "),
      "3 more rules of other programs stand before kvmnatd's in nat PREROUTING",
    ]);
    expect(messages([`${rules[0]}`, `${rules[0]}`, JUMP]), "twice the same").toHaveLength(1);
  });

  it("names three of those that lose", () => {
    const many = Array.from({ length: 5 }, () => resolved);
    expect(messages(["-A PREROUTING -j ACCEPT", JUMP], many)[0]).toContain(
      "(port 1122-1130/tcp), guest web (port 1122-1130/tcp), guest web (port 1122-1130/tcp) and 2 more: `",
    );
  });

  it("a pending forward, one of the other family, and one on another address lose nothing", () => {
    const { target: _, ...pending } = resolved;
    const rule = "-A PREROUTING -d 192.168.1.100/32 -p tcp -m tcp --dport 1122 -j ACCEPT";
    expect(messages([rule, JUMP], [pending])).toEqual([]);
    expect(messages([rule, JUMP], [{ ...resolved, family: 6 }])).toEqual([]);
    expect(messages([rule, JUMP], [{ ...resolved, hostAddresses: [ip("192.168.1.101")] }])).toEqual([]);
  });

  it("without our jump there is no before", () => {
    expect(messages(["-A PREROUTING -j ACCEPT"])).toEqual([]);
    expect(findRulesBefore(undefined, [resolved], HOST, 4)).toEqual([]);
  });
});
