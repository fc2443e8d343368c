import { expect, it } from "vitest";
import { KvmnatdError } from "../../../../src/errors.ts";
import { readSysctl } from "../../../../src/host/network/sysctl.ts";

it("readSysctl returns the value without its line end, and undefined for a missing sysctl", async () => {
  expect(await readSysctl("net/ipv4/ip_forward")).toMatch(/^[01]$/);
  expect(await readSysctl("net/ipv4/conf/no-such-link/forwarding")).toBeUndefined();
});

it("readSysctl throws a retryable KvmnatdError when the file cannot be read", async () => {
  // A folder: the only path below /proc/sys that root certainly cannot read.
  const error = await readSysctl("net/ipv4").catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(KvmnatdError);
  expect(error).toMatchObject({
    code: "proc-unreadable",
    retryable: true,
    message: expect.stringContaining("/proc/sys/net/ipv4 cannot be read (EISDIR)"),
  });
});
