import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";

const PROGRAM = resolve(import.meta.dirname, "../../../src/main.ts");

function kvmnatd(...args: readonly string[]): {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
} {
  return spawnSync(process.execPath, [PROGRAM, ...args], { encoding: "utf8" });
}

describe("an unknown command", () => {
  it.each([["doctor"], ["doctor", "--help"], ["doctor", "-h", "--json"]])(
    "is a usage error: %s",
    (...args) => {
      const { status, stdout, stderr } = kvmnatd(...args);
      expect(stderr).toContain("unknown command 'doctor'");
      expect({ status, stdout }).toEqual({ status: 64, stdout: "" });
    },
  );
});

it("options before the command are a usage error that names their position", () => {
  for (const option of ["-c", "--config=x", "--json"]) {
    const { status, stderr } = kvmnatd(option, "x", "check");
    expect(stderr).toMatch(/^error: options come after the command: `kvmnatd check -c FILE`$/m);
    expect(status).toBe(64);
  }
});

describe("the help of a command", () => {
  it.each([
    ["plan", ["--config", "--dnsmasq-dir"]],
    ["leases", ["--dnsmasq-dir"]],
    ["schema", []],
    ["completion", []],
    ["demo", []],
  ])("of %s names the files that the command reads: %s", (command, expected) => {
    const { stdout } = kvmnatd(command, "--help");
    expect(stdout.match(/--(config|dnsmasq-dir)/g) ?? []).toEqual(expected);
  });

  it("does not list options that the command accepts and ignores", () => {
    const { status, stdout } = kvmnatd("schema", "-c", "/etc/kvmnatd.yaml", "--dnsmasq-dir", "/srv");
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toHaveProperty("title");
  });
});
