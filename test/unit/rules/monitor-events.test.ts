import { describe, expect, it } from "vitest";
import { isHarmless, parseRuleEvent } from "../../../src/rules/monitor-events.ts";

function judge(line: string): "harmless" | "relevant" | "ignored" {
  const event = parseRuleEvent(line);
  if (event === undefined) return "ignored";
  return isHarmless(event) ? "harmless" : "relevant";
}

// As nftables 1.0.6 and 1.1.3 print them.
describe("an event of another program", () => {
  it.each([
    "add rule ip nat DOCKER tcp dport 8080 counter packets 0 bytes 0 dnat to 172.17.0.2:80 # handle 2",
    'add rule ip filter DOCKER ip daddr 172.17.0.2 iifname != "docker0" tcp dport 80 counter accept # handle 9',
    "add rule ip nat POSTROUTING ip saddr 172.17.0.2 counter masquerade # handle 4",
    "add rule ip nat PREROUTING fib daddr type local counter jump DOCKER # handle 5",
    "add rule ip raw PREROUTING ip daddr 172.17.0.2 counter packets 0 bytes 0 drop # handle 3",
    "add rule ip filter INPUT ip saddr 192.0.2.1 counter drop # handle 11",
    "insert rule ip filter FORWARD counter accept # handle 12",
  ])("is harmless when it can neither be kvmnatd's nor override its rules: %s", (line) => {
    expect(judge(line)).toBe("harmless");
  });

  it.each([
    // Removals: the kernel reports the handle alone.
    "delete rule ip nat DOCKER handle 2",
    "delete rule ip filter INPUT handle 11",
    "delete rule ip nat POSTROUTING handle 4",
    "delete rule ip6 filter FORWARD handle 2",
    "delete rule ip raw PREROUTING handle 2",
    "insert rule ip nat PREROUTING tcp dport 1122 counter dnat to 192.168.122.12:22 # handle 5",
    "delete rule ip nat KVMNATD-DNAT handle 7",
    "delete rule ip filter LIBVIRT_FWI handle 7",
    "add rule ip nat KVMNATD-DNAT tcp dport 22 counter dnat to 192.168.122.9:22 # handle 8",
    "add rule ip nat POSTROUTING  counter packets 0 bytes 0 jump KVMNATD-SNAT # handle 6",
    "add rule ip filter CUSTOM counter jump KVMNATD-FWD # handle 6",
    "insert rule ip filter FORWARD  counter packets 0 bytes 0 drop # handle 2",
    'add rule ip filter FORWARD oifname "virbr0" counter reject with icmp port-unreachable # handle 2',
    "add rule ip filter FORWARD counter jump accept # handle 2",
    "add rule ip filter FORWARD counter jump LIBVIRT_FWI # handle 2",
    "add rule ip filter DOCKER-USER counter drop # handle 2",
    "insert rule ip filter FORWARD counter return # handle 2",
    "add rule ip filter DOCKER-USER counter return # handle 13",
    // The removed rule may have accepted packets that a later rule rejects.
    "delete rule ip filter DOCKER handle 9",
    "insert rule ip filter FORWARD counter goto THEIRS # handle 2",
    'add rule ip filter DOCKER-USER xt target "REJECT" # handle 2',
    "insert rule ip raw PREROUTING counter accept # handle 2",
    "insert rule ip raw PREROUTING counter jump drop # handle 2",
    "delete rule ip libvirt_network forward handle 3",
    'add rule ip libvirt_network guest_output iif "virbr0" counter accept # handle 3',
    "replace rule ip nat DOCKER counter accept # handle 3",
    // A comment with a newline in it.
    'add rule ip filter FORWARD counter reject comment "x',
    'insert rule ip filter FORWARD counter drop comment "let accept',
    // nft prints two blanks for an iptables comment, which may be kvmnatd's mark.
    "insert rule ip filter FORWARD  counter packets 0 bytes 0 accept # handle 13",
    "insert rule ip nat PREROUTING  counter packets 0 bytes 0 accept # handle 14",
    'insert rule ip nat PREROUTING xt match "comment" counter accept # handle 14',
    'insert rule ip raw PREROUTING iifname "virbr0" ip daddr 127.0.0.0/8  counter packets 0 bytes 0 drop # handle 4',
  ])("is relevant when the rule may be kvmnatd's or may override it: %s", (line) => {
    expect(judge(line)).toBe("relevant");
  });

  it.each([
    "add rule inet filter forward drop # handle 3",
    "add rule ip mangle FORWARD drop # handle 3",
    "add chain ip nat X",
    "delete table ip nat",
    "# new generation 7 by process 12 (nft)",
    "",
  ])("is ignored in other tables: %s", (line) => {
    expect(judge(line)).toBe("ignored");
  });
});
