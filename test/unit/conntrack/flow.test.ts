import { describe, expect, it } from "vitest";
import { canBeAnsweredLate, parseFlow } from "../../../src/conntrack/flow.ts";
import type { Flow } from "../../../src/conntrack/flow.ts";
import { HOST, line } from "../../support/conntrack-lines.ts";

/** Captured: conntrack-tools 1.4.7. */
const LINE =
  "udp      17 29 src=198.51.100.2 dst=192.168.1.100 sport=40000 dport=5353 src=192.168.122.11 dst=198.51.100.2 sport=53 dport=40000 [ASSURED] mark=0 use=1";

describe("parseFlow", () => {
  it.each([
    ["udp", LINE, { protocol: "udp", port: 5353, replySource: "192.168.122.11", replySourcePort: 53 }],
    ["an unanswered connection", LINE.replace(" src=192", " [UNREPLIED] src=192"), { port: 5353 }],
    ["counters", LINE.replace("dport=5353", "dport=5353 packets=1 bytes=29"), { port: 5353 }],
    ["tcp", line({ protocol: "tcp", state: "SYN_SENT" }), { protocol: "tcp", state: "SYN_SENT" }],
    ["an offloaded connection, without a timeout", LINE.replace("17 29", "17"), { port: 5353 }],
  ])("reads %s", (_what, text, flow) => {
    expect(parseFlow(text)).toMatchObject(flow);
  });

  it.each([
    [
      "icmp",
      "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1 use=1",
    ],
    ["an empty line", ""],
  ])("returns undefined for %s", (_what, text) => {
    expect(parseFlow(text)).toBeUndefined();
  });

  it("describes an entry that the server began from the client's side", () => {
    expect(parseFlow(LINE, "server")).toEqual({
      protocol: "udp",
      state: undefined,
      initiator: "server",
      source: "192.168.122.11",
      sourcePort: 53,
      originalDestination: "198.51.100.2",
      port: 40_000,
      replySource: "198.51.100.2",
      replySourcePort: 40_000,
    });
  });
});

describe("canBeAnsweredLate", () => {
  const read = (text: string): Flow => parseFlow(text) ?? expect.fail(text);

  it.each([
    ["is true where the port stays the same", line({ answerer: HOST, answerPort: 5353 }), true],
    ["is false where the port is translated", LINE, false],
    [
      "is false before the server answered",
      line({ protocol: "tcp", state: "SYN_SENT", port: 22, answerer: HOST, answerPort: 22 }),
      false,
    ],
  ])("%s", (_title, text, expected) => {
    expect(canBeAnsweredLate(read(text))).toBe(expected);
  });
});
