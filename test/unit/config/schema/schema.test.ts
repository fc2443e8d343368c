import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { configJsonSchema, knownKeys } from "../../../../src/config/schema/schema.ts";
import { statusJsonSchema } from "../../../../src/status/schema.ts";

interface Json {
  readonly [key: string]: unknown;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Every property of the schema, at any depth, with its path. */
function properties(schema: unknown, path = ""): ReadonlyArray<readonly [string, Json]> {
  if (Array.isArray(schema)) return schema.flatMap((each) => properties(each, path));
  if (!isObject(schema)) return [];
  const own = isObject(schema["properties"]) ? Object.entries(schema["properties"]) : [];
  const below = ["items", "anyOf", "additionalProperties"].flatMap((key) => properties(schema[key], path));
  return [
    ...own.flatMap(([name, each]) =>
      isObject(each) ? [[`${path}/${name}`, each] as const, ...properties(each, `${path}/${name}`)] : [],
    ),
    ...below,
  ];
}

describe("the JSON Schema", () => {
  it("describes every key", () => {
    const all = properties(configJsonSchema());
    expect(all.length).toBeGreaterThan(30);
    expect(
      all.filter(([, schema]) => typeof schema["description"] !== "string").map(([path]) => path),
    ).toEqual([]);
  });

  it("knows the keys of the contract", () => {
    expect(knownKeys([]).join(" ")).toBe(
      "listen networks guests reach resync linger on_stop iptables metrics sources log_level",
    );
    expect(knownKeys(["guests", "a"]).join(" ")).toBe(
      "domain mac address hostname network allow ports reserve",
    );
    expect(knownKeys(["guests", "a", "ports", 0]).join(" ")).toBe("published target host_ip protocol allow");
    expect(knownKeys(["reach"]).join(" ")).toBe("guests host loopback");
  });

  // As an editor does, which reads numbers and booleans where people write no quotes.
  it.each([
    [{ guests: {} }, true],
    [{ guests: { a: null, b: { domain: 7, ports: null } } }, true],
    [{ guests: {}, reach: { host: true, guests: "on", loopback: "No" }, linger: 0 }, true],
    [{ guests: { a: { ports: ["22:22", { published: 80, target: "80-81" }] } } }, true],
    [{}, false],
    [{ guests: {}, lisen: "x" }, false],
    [{ guests: { a: { ports: [22] } } }, false],
    [{ guests: { a: { ports: [{ published: 80 }] } } }, false],
    [{ guests: { a: { allow: [] } } }, false],
    [{ guests: {}, on_stop: "never" }, false],
    [{ guests: { a: { ports: ["22"] } } }, false],
    [{ guests: { a: { ports: ["22:22/icmp"] } } }, false],
    [{ guests: { a: { ports: ["[2001:db8::1]:0x50:80/both", "10.0.0.1:80-81:80-81/sctp"] } } }, true],
    [{ guests: { a: { ports: [{ published: 0, target: 80 }] } } }, false],
    [{ guests: { a: { ports: [{ published: 65_536, target: 80 }] } } }, false],
    [{ guests: { a: { mac: "52:54:00:6C:3c" } } }, false],
    [{ guests: { a: { mac: "52-54-00-6C-3c-02" } } }, true],
    [{ guests: {}, linger: "5 s" }, false],
    [{ guests: {}, linger: 5 }, false],
    [{ guests: {}, linger: "500ms" }, true],
  ])("accepts %j: %s", (value, expected) => {
    const schema = z.fromJSONSchema(configJsonSchema());
    expect(schema.safeParse(value).success).toBe(expected);
  });
});

describe("the JSON Schema of the status", () => {
  it("describes every key", () => {
    const all = properties(statusJsonSchema());
    expect(all.length).toBeGreaterThan(25);
    expect(
      all.filter(([, schema]) => typeof schema["description"] !== "string").map(([path]) => path),
    ).toEqual([]);
  });

  it("is the file in docs, which `kvmnatd schema status` makes", () => {
    const file = join(import.meta.dirname, "../../../../docs/status.schema.json");
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual(statusJsonSchema());
  });

  it("has each key in status.md", () => {
    const doc = readFileSync(join(import.meta.dirname, "../../../../docs/status.md"), "utf8");
    for (const [path] of properties(statusJsonSchema()))
      expect(doc).toMatch(new RegExp(`^\\| \`${path.slice(path.lastIndexOf("/") + 1)}\` `, "m"));
  });

  it("lets fields be added", () => {
    const schema = z.fromJSONSchema(statusJsonSchema());
    const none = { running: false, problems: [], forwards: [] };
    expect(schema.safeParse(none).success).toBe(true);
    expect(schema.safeParse({ ...none, later: 1 }).success).toBe(true);
    expect(schema.safeParse({ ...none, running: true }).success).toBe(false);
  });
});
