import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, expect, it } from "vitest";
import type { EventCode } from "../../../src/event-codes.ts";
import { catalogEntryFor, MESSAGE_CATALOG } from "../../../src/log/message-catalog.ts";

const SOURCE = resolve(import.meta.dirname, "../../../src");
const source = readdirSync(SOURCE, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts") && !["event-codes.ts", "log/message-catalog.ts"].includes(file))
  .map((file) => readFileSync(join(SOURCE, file), "utf8"))
  .join("\n");
const explanations = Object.entries(MESSAGE_CATALOG);

describe("explanations", () => {
  it("have an id each, for ever", () => {
    const ids = explanations.map(([, { id }]) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{32}$/);
    expect(catalogEntryFor("forward-moved")?.id).toBe("e8745bc365b8499ab9ac92c43cae28ff");
  });

  it.each(explanations)(
    "of %s contain its meaning, what kvmnatd does and what the admin can do",
    (code, explanation) => {
      const { id: _, ...texts } = explanation;
      for (const text of Object.values(texts)) expect(text).toMatch(/^[\w@`].*[\w@.`]$/s);
      // As an entry's event, a problem's or an issue's code, or that of a KvmnatdError or of an error derived from it.
      const use = new RegExp(
        String.raw`(?:event: (?:\w+ \? )?|code: |(?:Error|Warning)\(\s*|super\(\s*|refuse\(\s*|report\(|: |return )"${code}"`,
      );
      expect(source, "is logged somewhere").toMatch(use);
    },
  );

  it("are missing only if the message explains itself", () => {
    const code: EventCode = "rule";
    expect(catalogEntryFor(code)).toBeUndefined();
  });
});
