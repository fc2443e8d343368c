import { describe, expect, it } from "vitest";
import type { YamlDocument } from "../../../../src/config/yaml/document.ts";
import { parseYaml } from "../../../../src/config/yaml/document.ts";

function document(text: string): YamlDocument {
  const { value, diagnostics } = parseYaml(text, "f");
  expect(diagnostics).toEqual([]);
  if (value === undefined) throw new Error("no document");
  return value;
}

describe("scalars", () => {
  it.each([
    ["22:22", "22:22"],
    ["on", "on"],
    ["007", "007"],
    ["0x50", "0x50"],
    ["1e3", "1e3"],
    ["true", "true"],
    ["'null'", "null"],
    ['"~"', "~"],
    ["''", ""],
    ["null", null],
    ["~", null],
    ["", null],
    ["|\n  a\n  b\n", "a\nb\n"],
  ])("%j is %j", (text, expected) => {
    expect(document(`a: ${text}`).value).toEqual({ a: expected });
  });
});

describe("a place", () => {
  const text = `a: &x
  b: [1, {c: 2}]
d:
e: *x
f:
  <<: *x
  g: !!str "h"
i:
  - j

  -
`;

  it.each([
    [["a", "b"], 2, 6, 3],
    [["a", "b", 0], 2, 7, 7],
    [["a", "b", 1, "c"], 2, 14, 11],
    [["d"], 3, 1, 1],
    [["e"], 4, 4, 1],
    [["e", "b", 0], 2, 7, 7],
    [["f", "b"], 2, 6, 3],
    [["f", "g"], 7, 12, 3],
    [["i", 0], 9, 5, 5],
    [["i", 1], 11, 4, 4],
    [["a", "missing"], 2, 3, 1],
    [["missing", "deeper"], 1, 1, 1],
    [[], 1, 1, 1],
  ] as const)("of %j is line %i, column %i; its key is in column %i", (path, line, column, key) => {
    expect(document(text).place(path)).toEqual({ file: "f", line, column });
    expect(document(text).keyPlace(path).column).toBe(key);
  });
});

describe("merge keys", () => {
  it.each([
    [
      "own keys win before and after the merge key",
      "a: &a {k: 1, l: 1}\nb: {k: 2, <<: *a}",
      { k: "2", l: "1" },
    ],
    ["the first of several wins", "a: &a {k: 1}\nb: {<<: [{k: 3}, *a]}", { k: "3" }],
    ["they chain", "a: &a {k: 1}\nc: &c {<<: *a, l: 2}\nb: {<<: *c}", { k: "1", l: "2" }],
    ["a quoted one is a plain key", "b: {'<<': 1}", { "<<": "1" }],
  ])("%s", (_, text, expected) => {
    expect(document(text).value).toMatchObject({ b: expected });
  });

  it("an alias stands for the last anchor of its name above it", () => {
    expect(document("a: &x 1\nb: *x\nc: &x 2\nd: *x").value).toEqual({ a: "1", b: "1", c: "2", d: "2" });
  });
});

describe("errors", () => {
  it.each([
    ["a".repeat(1024 * 1024 - 3), []],
    ["a".repeat(1024 * 1024 - 2), ["config-large"]],
    // Half as many characters as bytes.
    ["ü".repeat(512 * 1024), ["config-large"]],
  ])("are its size alone for a text above 1 MiB", (value, expected) => {
    const { diagnostics } = parseYaml(`a: ${value}`, "f");
    expect(diagnostics.map(({ code }) => code)).toEqual(expected);
    for (const { where } of diagnostics) expect(where).toEqual({ file: "f" });
  });

  it("are reported for every line, one per line", () => {
    const { value, diagnostics } = parseYaml("a: @x\nb: [1\nc: `y\n", "f");
    expect(value).toBeUndefined();
    expect(diagnostics.map(({ where }) => where?.line)).toEqual([1, 3]);
  });

  // The library's line counter puts the last of these into line 4.
  it("keep their lines after an unclosed quote", () => {
    const { diagnostics } = parseYaml("[]\n'a\n#\nb: c's\nd: e\n\nlonger line\n'x", "f");
    expect(diagnostics.map(({ where }) => `${where?.line}:${where?.column}`)).toEqual([
      "2:1",
      "4:6",
      "5:2",
      "7:1",
    ]);
  });

  it("of keys and further documents leave the document usable", () => {
    const { value, diagnostics } = parseYaml("a: 1\na: 2\n---\nb: 3\n", "f");
    expect(value?.value).toEqual({ a: "1" });
    expect(diagnostics.map(({ code }) => code)).toEqual(["yaml-documents", "duplicate-key"]);
  });
});

describe("aliases", () => {
  it("are resolved in linear time", () => {
    const before = process.cpuUsage();
    const { value } = document(`a: &a 1\nb: [${"*a, ".repeat(40_000)}]`);
    expect(value).toMatchObject({ b: expect.objectContaining({ length: 40_000 }) as unknown });
    expect(process.cpuUsage(before).user).toBeLessThan(5e6);
  });

  it("may stand for a value below a duplicate key", () => {
    const { value, diagnostics } = parseYaml("a: 1\na: &x [2]\nb: *x\n", "f");
    expect(value?.value).toEqual({ a: "1", b: ["2"] });
    expect(diagnostics.map(({ code }) => code)).toEqual(["duplicate-key"]);
  });

  it("are an error with a place when they have no target or exceed the limit", () => {
    const codes = (text: string): readonly string[] =>
      parseYaml(text, "f").diagnostics.map(({ code, where }) => `${where?.line}:${where?.column} ${code}`);
    expect(codes("a: 1\nb: *x\n")).toEqual(["2:4 yaml-alias"]);
    expect(codes("a: &x {b: *x}\n")).toEqual(["1:11 yaml-alias"]);
    expect(codes(`a: &x [${"1, ".repeat(60_000)}]\nb: *x\nc: *x\n`)).toEqual(["3:4 yaml-alias-bomb"]);
  });
});
