import { describe, expect, it } from "vitest";
import { CommandError, ConfigError, errnoOf, KvmnatdError, VerifyError } from "../../src/errors.ts";

const FAILURE = { argv: ["ip", "link"], exitCode: 1, isMissing: false, stderr: "no such device" };

describe("a failed effect", () => {
  it("becomes a diagnostic with its code and message, an error unless the caller says otherwise", () => {
    const error = new VerifyError("rules differ");
    const diagnostic = { code: "verify-failed", message: "rules differ", where: undefined };
    expect(error.toDiagnostic()).toEqual({ ...diagnostic, severity: "error" });
    expect(error.toDiagnostic("warning")).toEqual({ ...diagnostic, severity: "warning" });
  });

  it("is retryable unless it is the config's", () => {
    expect(new KvmnatdError("journal", "x").retryable).toBe(true);
    expect(new ConfigError("x", [], "").retryable).toBe(false);
  });

  it("keeps how a program failed, and its cause", () => {
    const cause = new Error("spawn");
    const error = new CommandError("ip link: no such device", { ...FAILURE, cause });
    expect(error).toMatchObject({ ...FAILURE, cause, code: "command-failed", name: "CommandError" });
  });
});

it("errnoOf returns the code of a system call's error alone", () => {
  expect(errnoOf(Object.assign(new Error("x"), { code: "ENOENT" }))).toBe("ENOENT");
  expect(errnoOf(new KvmnatdError("journal", "x"))).toBeUndefined();
  expect(errnoOf(new TypeError("x"))).toBeUndefined();
});
