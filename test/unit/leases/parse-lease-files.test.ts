import { describe, expect, it } from "vitest";
import { parseDomainMacs, parseLeases } from "../../../src/leases/parse-lease-files.ts";
import type { Lease } from "../../../src/leases/lease.ts";
import type { Parsed } from "../../../src/diagnostic.ts";

const FILE = "virbr0.status";
const ROW = {
  "ip-address": "192.168.122.136",
  "mac-address": "52:54:00:6c:3c:01",
  hostname: "web",
  "client-id": "01:52:54:00:6c:3c:01",
  "expiry-time": 1795455428,
};

function parse(content: unknown): Parsed<readonly Lease[] | undefined> {
  const text = typeof content === "string" ? content : JSON.stringify(content);
  return parseLeases(new TextEncoder().encode(text), FILE, "virbr0");
}

describe("a file that libvirt wrote", () => {
  it("returns each row", () => {
    expect(parse([ROW])).toEqual({
      value: [
        {
          bridge: "virbr0",
          mac: "52:54:00:6c:3c:01",
          address: "192.168.122.136",
          hostname: "web",
          expiresAtMs: 1795455428000,
        },
      ],
      diagnostics: [],
    });
  });

  it("returns IPv6 addresses in their short form", () => {
    const row = { ...ROW, iaid: "1105505880", "ip-address": "fd00:122:0::18F", "server-duid": "00:01" };
    expect(parse([row]).value?.[0]?.address).toBe("fd00:122::18f");
  });

  it.each([["[\n\n]\n"], ["[]\n"]])("has no leases when libvirt emptied it as %j", (text) => {
    expect(parse(text)).toEqual({ value: [], diagnostics: [] });
  });

  it("has no value and no error when it has 0 bytes", () => {
    expect(parse("")).toEqual({ value: undefined, diagnostics: [] });
  });
});

describe("a file that is not a list of rows is an error without a value", () => {
  it.each([
    ["truncated", '[ { "ip-address": "192.168.1'],
    ["an object", "{}"],
    ["a number", "42"],
    ["null", "null"],
    ["text", "hello"],
  ])("%s", (_what, text) => {
    const { value, diagnostics } = parse(text);
    expect(value).toBeUndefined();
    expect(diagnostics).toHaveLength(1);
    expect(diagnostics[0]).toMatchObject({ code: "lease-file", severity: "error", where: { file: FILE } });
  });
});

describe("expiry", () => {
  const expiry = (value: unknown): number | undefined =>
    parse([{ ...ROW, "expiry-time": value }]).value?.[0]?.expiresAtMs;

  it.each([
    ["0 is infinite", 0, undefined],
    ["absent is infinite", undefined, undefined],
    ["digits in a string count", "1795455428", 1795455428000],
    ["the past is the past", 1, 1000],
    ["the year 2106 and later", 4294967296, 4294967296000],
  ])("%s", (_what, value, expected) => {
    expect(expiry(value)).toBe(expected);
    expect(parse([{ ...ROW, "expiry-time": value }]).value).toHaveLength(1);
  });

  it.each([["soon"], [-1], [Number.NaN], [{}], ["99999999999999999999"]])(
    "%j: the row is left out",
    (value) => {
      const row = { ...ROW, "expiry-time": value };
      const { value: rows, diagnostics } = parse(JSON.stringify([row]).replace("null", '"NaN"'));
      expect(rows).toEqual([]);
      expect(diagnostics[0]?.message).toContain("expiry-time");
    },
  );
});

describe("one bad row does not hide the others", () => {
  it.each([
    ["no object", 7],
    ["an array", []],
    ["null", null],
    ["no address", { ...ROW, "ip-address": undefined }],
    ["an octal address", { ...ROW, "ip-address": "192.168.122.010.1" }],
    ["a 16-byte MAC", { ...ROW, "mac-address": "20-00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff" }],
    ["a multicast MAC", { ...ROW, "mac-address": "01:00:5e:00:00:01" }],
    ["a MAC with a newline", { ...ROW, "mac-address": "52:54:00:6c:3c:01\n" }],
  ])("%s", (_what, bad) => {
    const other = { ...ROW, "ip-address": "192.168.122.9" };
    const { value, diagnostics } = parse([bad, other]);
    expect(value?.map((lease) => lease.address)).toEqual(["192.168.122.9"]);
    expect(diagnostics).toHaveLength(1);
    expect(diagnostics[0]?.message).toMatch(/^row (of .+ )?left out: /);
  });

  it("reports the same in any order of the rows", () => {
    const bad = [
      { ...ROW, "ip-address": "x" },
      { ...ROW, "mac-address": "y" },
      { ...ROW, "mac-address": "y" },
    ];
    expect(parse([...bad, ROW]).diagnostics).toEqual(parse([ROW, ...bad.toReversed()]).diagnostics);
    expect(parse(bad).diagnostics.map(({ message }) => message)).toEqual([
      'row of 192.168.122.136 y left out: mac-address "y" is not a 48-bit unicast MAC',
      'row of x 52:54:00:6c:3c:01 left out: ip-address "x" is not an IP address',
    ]);
  });

  it("reports a thousand bad rows as ten lines and a count", () => {
    const { value, diagnostics } = parse([
      ...Array.from({ length: 1000 }, (_, index) => ({ "mac-address": `x${index}` })),
      ROW,
    ]);
    expect(value).toHaveLength(1);
    expect(diagnostics).toHaveLength(11);
    expect(diagnostics.at(-1)?.message).toBe("990 more rows left out");
  });
});

describe("data that guests send", () => {
  it.each([
    ["quotes", '"quote\\back'],
    ["a newline", "x\ny"],
    ["an escape sequence", "\u001b[2J\u0007"],
    ["10,000 characters", "A".repeat(10_000)],
    ["a forged row", 'x", "ip-address": "192.168.122.66'],
  ])("keeps a hostname with %s", (_what, hostname) => {
    expect(parse([{ ...ROW, hostname }])).toMatchObject({ value: [{ hostname }], diagnostics: [] });
  });

  it("keeps a row whose hostname is not a string, without the hostname", () => {
    const { value, diagnostics } = parse([{ ...ROW, hostname: 7 }]);
    expect(diagnostics).toEqual([]);
    expect(value?.[0]?.hostname).toBeUndefined();
  });

  it("keeps all rows when one hostname is not valid UTF-8", () => {
    const text = JSON.stringify([
      { ...ROW, hostname: "XX" },
      { ...ROW, "ip-address": "192.168.122.9" },
    ]);
    const bytes = Buffer.from(text, "latin1");
    bytes.set([0xff, 0xfe], bytes.indexOf("XX"));
    expect(parseLeases(bytes, FILE, "virbr0")).toMatchObject({ value: [{}, {}], diagnostics: [] });
  });

  it("reads an upper-case MAC as the same MAC", () => {
    expect(parse([{ ...ROW, "mac-address": "52:54:00:6C:3C:01" }]).value?.[0]?.mac).toBe("52:54:00:6c:3c:01");
  });
});

describe(".macs", () => {
  it("returns domains with unusual names, and drops invalid MACs", () => {
    const rows = [
      { domain: 'we"b ü', macs: ["52:54:00:6C:3C:01", "nonsense"] },
      { domain: "", macs: [] },
      { domain: "x", macs: "y" },
    ];
    const bytes = new TextEncoder().encode(JSON.stringify(rows));
    const { value, diagnostics } = parseDomainMacs(bytes, "virbr0.macs", "virbr0");
    expect(value).toEqual([{ bridge: "virbr0", domain: 'we"b ü', macs: ["52:54:00:6c:3c:01"] }]);
    expect(diagnostics).toHaveLength(2);
  });
});
