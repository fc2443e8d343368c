import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { describeCommands } from "../../src/cli/arguments.ts";
import { knownKeys } from "../../src/config/schema/schema.ts";

const GENERATOR = resolve(import.meta.dirname, "../../packaging/man.ts");
const folder = mkdtempSync(join(tmpdir(), "kvmnatd-man-"));
beforeAll(() => void execFileSync(process.execPath, [GENERATOR, folder]));
afterAll(() => rmSync(folder, { recursive: true }));

/** The page as people see it, and what groff complains of. */
function show(page: string): { readonly text: string; readonly complaints: string } {
  const { stdout, stderr } = spawnSync("man", ["--warnings", "--local-file", join(folder, page)], {
    encoding: "utf8",
    env: { ...process.env, LC_ALL: "C.UTF-8", MANWIDTH: "80", MAN_KEEP_FORMATTING: "", MANPAGER: "cat" },
  });
  return { text: stdout, complaints: stderr };
}

describe("the man pages", () => {
  it.each(["kvmnatd.8", "kvmnatd.yaml.5"])("%s is right in groff's eyes", (page) => {
    const { text, complaints } = show(page);
    expect(complaints).toBe("");
    expect(text).toMatch(/^NAME$/m);
  });

  it("name every command", () => {
    const { text } = show("kvmnatd.8");
    for (const { name } of describeCommands()) expect(text).toMatch(new RegExp(`^ {7}${name}\\b`, "m"));
  });

  it("name every key and contain the example config unchanged", () => {
    const { text } = show("kvmnatd.yaml.5");
    for (const key of knownKeys([])) expect(text).toMatch(new RegExp(`^ {7}${key}\\b`, "m"));
    const example = readFileSync(resolve(import.meta.dirname, "../../config.example.yaml"), "utf8");
    for (const line of example.split("\n")) expect(text).toContain(line);
  });
});
