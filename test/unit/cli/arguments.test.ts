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

describe("a command that there is not", () => {
  it.each([["doctor"], ["doctor", "--help"], ["doctor", "-h", "--json"]])("is wrong usage: %s", (...args) => {
    const { status, stdout, stderr } = kvmnatd(...args);
    expect(stderr).toContain("unknown command 'doctor'");
    expect({ status, stdout }).toEqual({ status: 64, stdout: "" });
  });
});

it("options before the command are wrong usage, and it is said where they go", () => {
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
  ])("%s names the files that it reads: %s", (command, expected) => {
    const { stdout } = kvmnatd(command, "--help");
    expect(stdout.match(/--(config|dnsmasq-dir)/g) ?? []).toEqual(expected);
  });

  it("does not keep others from being named", () => {
    const { status, stdout } = kvmnatd("schema", "-c", "/etc/kvmnatd.yaml", "--dnsmasq-dir", "/srv");
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toHaveProperty("title");
  });
});
