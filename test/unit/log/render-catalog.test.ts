import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { renderCatalog } from "../../../src/log/render-catalog.ts";
import { MESSAGE_CATALOG } from "../../../src/log/message-catalog.ts";

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
      Object.values(MESSAGE_CATALOG)
        .map(({ id, subject }) => `${id} kvmnatd: ${subject}`)
        .toSorted(),
    );
    const shown = journalctl("--dump-catalog", MESSAGE_CATALOG["jump-overridden"].id);
    expect(shown.replaceAll("\n", " ")).toContain(MESSAGE_CATALOG["jump-overridden"].todo);
  });
});
