import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { findStyleHits, findTitles } from "../support/style.ts";

const ROOT = resolve(import.meta.dirname, "../..");

/** Files and folders whose whole text is checked; of tests only the titles. */
const CHECKED = [
  "src",
  "docs",
  "packaging",
  "systemd",
  "README.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  "config.example.yaml",
  "Dockerfile.test",
];

/** Not text for people: licenses and generated JSON. */
const EXEMPT = /\.json$|\/copyright$/;

function listFiles(path: string): readonly string[] {
  if (/\.\w+$/.test(path)) return [path];
  const entries = readdirSync(join(ROOT, path), { recursive: true, withFileTypes: true });
  return entries
    .filter((each) => each.isFile())
    .map((each) => join(each.parentPath, each.name).slice(ROOT.length + 1));
}

function read(file: string): string {
  return readFileSync(join(ROOT, file), "utf8");
}

function describeHits(file: string): readonly string[] {
  return findStyleHits(read(file)).map(({ line, text, rule }) => `${file}:${line}: "${text}": ${rule}`);
}

function describeTitleHits(file: string): readonly string[] {
  return findTitles(read(file)).flatMap(({ line, title }) =>
    findStyleHits(title).map(({ text, rule }) => `${file}:${line}: "${text}" in a title: ${rule}`),
  );
}

describe("the style checker", () => {
  it.each([
    "// Nobody sees this.",
    "/** Rules that somebody else wrote. */",
    "The file is written anew.",
    "connections that lead astray",
    '"x" is no port',
    "A MAC that is all zero is no guest's.",
    "Of two rules the first wins.",
    "/** So many probes fit into a pass. */",
    "Who inserts a rule has the port.",
    "* A bridge that is gone. Who looks sees nothing.",
    "The daemon is told of changes.",
    "nothing is said of the protocol",
    "Rules of others are looked at twice.",
    "kvmnatd has not the right to change it",
    "a read-only file system but for /run",
  ])("rejects: %s", (text) => {
    expect(findStyleHits(text)).toHaveLength(1);
  });

  it.each([
    "There is no lease for this guest.",
    "The rule is no longer in the chain, and at most one of them is no more than a second old.",
    "Of course the kernel decides.",
    "kvmnatd reports the rule that shadows a forward.",
    '`"x" is not a valid port (1-65535)`',
    "Clients that had no answer connect again.",
    "Maximum number of probes in a pass.",
    "Who has port 1122? `kvmnatd history` answers.",
  ])("accepts: %s", (text) => {
    expect(findStyleHits(text)).toEqual([]);
  });

  it("finds a sentence that goes on over a line of a comment, and reports its first line", () => {
    const hits = findStyleHits("// fine\n// The bridge is\n// no bridge of libvirt.\n// fine");
    expect(hits.map(({ line }) => line)).toEqual([2]);
  });

  it("reads the titles of plain tests, tables and suites, with their lines", () => {
    const source = 'describe("a", () => {\n  it.each([["x"]])("b %s", () => {});\n  it(`c`, () => {});\n});';
    expect(findTitles(source)).toEqual([
      { line: 1, title: "a" },
      { line: 2, title: "b %s" },
      { line: 3, title: "c" },
    ]);
  });
});

describe("the style of texts, comments and messages", () => {
  it("is plain technical English in every file", () => {
    const files = CHECKED.flatMap(listFiles).filter((file) => !EXEMPT.test(file));
    expect(files.length).toBeGreaterThan(10);
    expect(files.flatMap(describeHits)).toEqual([]);
  });

  it("is plain technical English in every test title", () => {
    const files = listFiles("test").filter((file) => file.endsWith(".test.ts"));
    const checked = files.filter((file) => file !== "test/unit/style.test.ts");
    expect(checked.length).toBeGreaterThan(5);
    expect(checked.flatMap(describeTitleHits)).toEqual([]);
  });
});
