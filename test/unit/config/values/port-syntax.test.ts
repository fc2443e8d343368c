import { describe, expect, it } from "vitest";
import { parsePortRange, parsePortText } from "../../../../src/config/values/port-syntax.ts";

const one = (port: number): { first: number; last: number } => ({ first: port, last: port });

describe("the short form", () => {
  it.each([
    ["1122:22", { published: one(1122), target: one(22), protocols: ["tcp"] }],
    ["1:65535/udp", { published: one(1), target: one(65_535), protocols: ["udp"] }],
    ["22:22/sctp", { published: one(22), target: one(22), protocols: ["sctp"] }],
    ["53:53/both", { published: one(53), target: one(53), protocols: ["tcp", "udp"] }],
    ["10.0.0.1:1:2", { hostIp: "10.0.0.1", published: one(1), target: one(2), protocols: ["tcp"] }],
    ["[::1]:80:80/udp", { hostIp: "::1", published: one(80), target: one(80), protocols: ["udp"] }],
    ["0x50:0080", { published: one(80), target: one(80), protocols: ["tcp"] }],
    [
      "30000-30099:40000-40099",
      {
        published: { first: 30_000, last: 30_099 },
        target: { first: 40_000, last: 40_099 },
        protocols: ["tcp"],
      },
    ],
    ["5-5:6", { published: one(5), target: one(6), protocols: ["tcp"] }],
  ])("%s is parsed", (text, expected) => {
    expect(parsePortText(text)).toEqual({ value: expected });
  });

  it.each([
    ["", "port-syntax", "1122:22"],
    ["22", "port-syntax", "write 22:22"],
    ["22/udp", "port-syntax", "write 22:22/udp"],
    ["80-90", "port-syntax", "write 80-90:80-90"],
    [":22", "port-syntax", "missing"],
    ["22:", "port-syntax", "missing"],
    ["10.0.0.1::22", "port-syntax", "missing"],
    ["1-:2", "port-syntax", "missing"],
    ["1-2-3:4", "port-syntax", "not a port range"],
    ["2001:db8::1:80:80", "port-syntax", "brackets"],
    ["1:2:3:4", "port-syntax", "not a port mapping"],
    ["8080:80:90", "port-syntax", "write 8080:80"],
    ["8000-8010:80-90:90/udp", "port-syntax", "write 8000-8010:80-90/udp"],
    ["ssh:22", "port-number", '"ssh"'],
    ["1e3:22", "port-number", '"1e3"'],
    ["22 :22", "port-number", '"22 "'],
    ["+22:22", "port-number", '"+22"'],
    ["0:22", "port-number", "1-65535"],
    ["22:0", "port-number", "1-65535"],
    ["65536:22", "port-number", "1-65535"],
    ["0x10000:22", "port-number", "1-65535"],
    ["99999999999999999999999:22", "port-number", "1-65535"],
    ["65530-65536:1-7", "port-number", "1-65535"],
    ["9-8:8-9", "port-reversed", "write 8-9"],
    ["8-9:9-8", "port-reversed", "write 8-9"],
    ["8-10:8-9", "port-unequal", "3 published and 2 target"],
    ["22:22/icmp", "port-protocol", "/icmp"],
    ["22:22/TCP", "port-protocol", "/tcp"],
    ["22:22/", "port-protocol", "/tcp"],
    ["22:22/tcp/udp", "port-protocol", "/tcp/udp"],
    ["22:22/constructor", "port-protocol", "/sctp"],
  ])("%j is rejected: %s", (text, code, hint) => {
    expect(parsePortText(text)).toMatchObject({ fault: { code, message: expect.stringContaining(hint) } });
  });
});

it("a range alone is parsed", () => {
  expect(parsePortRange("8000-8010")).toEqual({ value: { first: 8000, last: 8010 } });
  expect(parsePortRange("0X16")).toEqual({ value: one(22) });
});
