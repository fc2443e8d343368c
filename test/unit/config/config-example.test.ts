import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { z } from "zod";
import { parsePortMap } from "../../../src/config/parse-port-map.ts";
import { configJsonSchema, knownKeys } from "../../../src/config/schema/schema.ts";

const FILE = "config.example.yaml";
const text = readFileSync(join(import.meta.dirname, "../../..", FILE), "utf8");
const checks = { isCron: (): boolean => true };

describe("config.example.yaml", () => {
  it("is valid without a warning", () => {
    const { value, diagnostics } = parsePortMap(text, FILE, checks);
    expect(diagnostics).toEqual([]);
    expect(value?.guests.map(({ name }) => name)).toEqual([
      "devstack",
      "game",
      "printer",
      "laptop",
      "web1",
      "web2",
    ]);
    expect(value?.guests.flatMap(({ forwards }) => forwards)).toHaveLength(11);
  });

  it("is valid for an editor", () => {
    const schema = z.fromJSONSchema(configJsonSchema());
    expect(schema.safeParse(parse(text, { merge: true })).error?.issues).toBeUndefined();
    expect(text).toMatch(/^# yaml-language-server: \$schema=\S+\n/);
    expect(text).toContain("kvmnatd schema");
  });

  it.each([...knownKeys([]), ...knownKeys(["guests", "a"]).filter((key) => key !== "domain")])(
    "shows %s",
    (key) => {
      expect(text).toMatch(new RegExp(`\\b${key}:`));
    },
  );

  it("is valid with its alternatives too", () => {
    const other = text
      .replace("listen: 192.168.1.100\n# listen:", "listen:")
      .replace("# networks:", "networks:")
      .replace("# network:", "network:")
      .replace("# metrics:", "metrics:")
      .replace('# - "[2001', '- "[2001');
    expect(parsePortMap(other, FILE, checks).diagnostics).toEqual([]);
    expect(other).not.toBe(text);
  });

  it("has a key that is not supported only as a comment", () => {
    const other = text.replace("# sources:", "sources:");
    expect(parsePortMap(other, FILE, checks).diagnostics.map(({ code }) => code)).toEqual(["not-supported"]);
  });
});
