import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { describeCommands } from "../../../src/cli/arguments.ts";
import { completionScript } from "../../../src/cli/completion.ts";

/** What bash offers after these words. */
function complete(...words: readonly string[]): readonly string[] {
  const script = `
    eval "$(cat)"
    compopt() { :; }
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
    _kvmnatd
    printf '%s\\n' "\${COMPREPLY[@]}"`;
  const input = completionScript("bash", describeCommands());
  const options = { input, encoding: "utf8", cwd: "/" } as const;
  return execFileSync("bash", ["-c", script, "bash", ...words], options)
    .split("\n")
    .filter((word) => word !== "");
}

describe("bash", () => {
  it("offers commands first", () => {
    expect(complete("kvmnatd", "")).toEqual(
      expect.arrayContaining(["run", "check", "plan", "teardown", "help"]),
    );
    expect(complete("kvmnatd", "te")).toEqual(["teardown"]);
  });

  it("offers a command's options, and only those", () => {
    expect(complete("kvmnatd", "plan", "--")).toEqual(["--config", "--dnsmasq-dir", "--json", "--help"]);
    expect(complete("kvmnatd", "check", "--")).not.toContain("--json");
    expect(complete("kvmnatd", "schema", "--")).toEqual(["--help"]);
  });

  it("offers files after -c and folders after --dnsmasq-dir", () => {
    expect(complete("kvmnatd", "plan", "-c", "/etc/pass")).toContain("/etc/passwd");
    expect(complete("kvmnatd", "plan", "--dnsmasq-dir", "/et")).toEqual(["/etc"]);
  });

  it("offers folders after --journal-dir, and nothing after --guest", () => {
    expect(complete("kvmnatd", "history", "--")).toEqual(
      expect.arrayContaining(["--guest", "--port", "--since", "--until", "--at", "--journal-dir", "--json"]),
    );
    expect(complete("kvmnatd", "history", "--journal-dir", "/et")).toEqual(["/etc"]);
    expect(complete("kvmnatd", "history", "--guest", "")).toEqual([]);
  });

  it("offers the shells to completion", () => {
    expect(complete("kvmnatd", "completion", "f")).toEqual(["fish"]);
  });

  it("offers the subjects to schema", () => {
    expect(complete("kvmnatd", "schema", "s")).toEqual(["status"]);
  });
});

it.each([
  ["zsh", "zsh", ["-n"]],
  ["fish", "fish", ["--no-execute"]],
] as const)("%s accepts its script", (shell, program, options) => {
  const folder = mkdtempSync(join(tmpdir(), "kvmnatd-completion-"));
  writeFileSync(join(folder, "script"), completionScript(shell, describeCommands()));
  const { status, stderr } = spawnSync(program, [...options, join(folder, "script")], { encoding: "utf8" });
  rmSync(folder, { recursive: true });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
});
