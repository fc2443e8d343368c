import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { explain, EXPLANATIONS, renderCatalog } from "../../../src/core/events.ts";
import type { EventCode } from "../../../src/core/events.ts";

const SOURCE = resolve(import.meta.dirname, "../../../src");
const source = readdirSync(SOURCE, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts") && file !== "core/events.ts")
  .map((file) => readFileSync(join(SOURCE, file), "utf8"))
  .join("\n");
const explanations = Object.entries(EXPLANATIONS);

describe("explanations", () => {
  it("have an id each, for ever", () => {
    const ids = explanations.map(([, { id }]) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{32}$/);
    expect(explain("forward-moved")?.id).toBe("e8745bc365b8499ab9ac92c43cae28ff");
  });

  it.each(explanations)("of %s say what it means, what is done and what to do", (code, explanation) => {
    const { id: _, ...texts } = explanation;
    for (const text of Object.values(texts)) expect(text).toMatch(/^[\w@`].*[\w@.`]$/s);
    expect(source, "is logged somewhere").toContain(`"${code}"`);
  });

  it("are missing only where the entry says it all", () => {
    const code: EventCode = "rule";
    expect(explain(code)).toBeUndefined();
  });
});

describe("the message catalogue", () => {
  const root = mkdtempSync(join(tmpdir(), "kvmnatd-catalog-"));
  afterAll(() => rmSync(root, { recursive: true }));
  const journalctl = (...args: readonly string[]): string =>
    execFileSync("journalctl", [`--root=${root}`, ...args], { encoding: "utf8" });

  it("is what journalctl reads", () => {
    const folder = join(root, "usr/lib/systemd/catalog");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "kvmnatd.catalog"), renderCatalog());
    journalctl("--update-catalog");
    const listed = journalctl("--list-catalog").trim().split("\n");
    expect(listed.toSorted()).toEqual(
      explanations.map(([, { id, subject }]) => `${id} kvmnatd: ${subject}`).toSorted(),
    );
    const shown = journalctl("--dump-catalog", EXPLANATIONS.contested.id);
    expect(shown.replaceAll("\n", " ")).toContain(EXPLANATIONS.contested.todo);
  });
});
