import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { describeCommands } from "../../src/cli/arguments.ts";
import { MESSAGE_CATALOG } from "../../src/log/message-catalog.ts";

const ROOT = resolve(import.meta.dirname, "../..");

const DOCUMENTS = [
  "README.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  ...readdirSync(join(ROOT, "docs"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".md"))
    .map((file) => `docs/${file}`),
];

function read(file: string): string {
  return readFileSync(join(ROOT, file), "utf8");
}

/** What a pattern finds in all documents, each with its document. */
function findAll(pattern: RegExp): readonly { readonly file: string; readonly found: string }[] {
  return DOCUMENTS.flatMap((file) =>
    Array.from(read(file).matchAll(pattern), ([, found = ""]) => ({ file, found })),
  );
}

describe("the documents", () => {
  it("name only files and folders of the repository that exist", () => {
    const paths = findAll(/`((?:src|test|docs|packaging|systemd)\/[\w./-]*\w\/?)`/g);
    expect(paths.length).toBeGreaterThan(50);
    expect(paths.filter(({ found }) => !existsSync(join(ROOT, found)))).toEqual([]);
  });

  it("link only to files that exist", () => {
    const links = findAll(/\]\((?!https?:)([^)#]+)/g);
    expect(links.length).toBeGreaterThan(20);
    expect(links.filter(({ file, found }) => !existsSync(join(ROOT, dirname(file), found)))).toEqual([]);
  });

  it("name only npm scripts that exist", () => {
    const { scripts } = JSON.parse(read("package.json")) as { scripts: Readonly<Record<string, string>> };
    const used = findAll(/\bnpm run ([\w:]+)/g);
    expect(used.length).toBeGreaterThan(5);
    expect(used.filter(({ found }) => !Object.hasOwn(scripts, found))).toEqual([]);
  });

  it("name only commands of kvmnatd that exist, except for the announced ones", () => {
    const known = new Set([...describeCommands().map(({ name }) => name), "doctor"]);
    const used = findAll(/`(?:sudo )?kvmnatd ([a-z]+)/g);
    expect(used.length).toBeGreaterThan(30);
    expect(used.filter(({ found }) => !known.has(found))).toEqual([]);
  });

  it("describe every folder of src/ in the map of CONTRIBUTING.md", () => {
    const folders = readdirSync(join(ROOT, "src"), { withFileTypes: true }).filter((each) =>
      each.isDirectory(),
    );
    const map = read("CONTRIBUTING.md");
    expect(folders.map(({ name }) => name).filter((name) => !map.includes(`\`src/${name}/\``))).toEqual([]);
  });

  it("name only event codes that exist in the table of docs/status.md", () => {
    const table = read("docs/status.md").split("## Problems")[1] ?? "";
    const codes = Array.from(table.matchAll(/^\| (`.*?) +\|/gm), ([, cell = ""]) => cell).flatMap((cell) =>
      Array.from(cell.matchAll(/`([a-z0-9-]+)`/g), ([, code = ""]) => code),
    );
    expect(codes.length).toBeGreaterThan(20);
    expect(codes.filter((code) => !Object.hasOwn(MESSAGE_CATALOG, code))).toEqual([]);
  });
});
