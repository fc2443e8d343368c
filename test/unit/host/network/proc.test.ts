import { expect, it } from "vitest";
import { KvmnatdError } from "../../../../src/errors.ts";
import { readSysctl } from "../../../../src/host/network/sysctl.ts";

it("a sysctl is read without its line end; of one that is not there nothing is said", async () => {
  expect(await readSysctl("net/ipv4/ip_forward")).toMatch(/^[01]$/);
  expect(await readSysctl("net/ipv4/conf/no-such-link/forwarding")).toBeUndefined();
});

it("what cannot be read is a failure to be told and tried again, no bug", async () => {
  // A folder: the only file of the kernel's that root is sure to be refused.
  const error = await readSysctl("net/ipv4").catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(KvmnatdError);
  expect(error).toMatchObject({
    code: "proc-unreadable",
    retryable: true,
    message: expect.stringContaining("/proc/sys/net/ipv4 cannot be read (EISDIR)"),
  });
});
