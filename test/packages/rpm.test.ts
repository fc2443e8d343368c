import { basename } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createMachine, packageFile, rpmOptions } from "../support/packages.ts";
import type { Machine } from "../support/packages.ts";

const CHANGE = rpmOptions();

describe("the rpm", () => {
  let machine: Machine;
  let before: string;
  let now: string;
  beforeAll(async () => {
    machine = await createMachine();
    [before, now] = await Promise.all([
      machine.bring(await packageFile("before", ".rpm")),
      machine.bring(await packageFile("now", ".rpm")),
    ]);
  });
  afterAll(() => machine.lab.close());
  const said = async (script: string): Promise<string> => (await machine.sh(script)).stdout.trim();
  const rpm = async (...args: readonly string[]): Promise<string> => {
    const own = ["rpm", "--root", machine.root, "--dbpath", "/var/lib/rpm"];
    return (await machine.lab.exec([...own, ...args], { timeoutMs: 180_000 })).stdout.trim();
  };

  it("depends on the packages that it needs", async () => {
    const needs = await rpm("-qp", "--requires", now);
    for (const name of ["iptables", "nftables", "conntrack-tools", "iproute", "libc.so.6(GLIBC_2.28)(64bit)"])
      expect(needs.split("\n")).toContain(name);
    // systemd 253 and newer does what Perl is for.
    expect(needs).not.toMatch(/perl/);
    // What it needs of itself.
    expect(await rpm("-qp", "--provides", now)).toMatch(/^config\(kvmnatd\) = /m);
    expect(await rpm("-qp", "--recommends", now)).toMatch(/^\(perl\(Socket\) if systemd < 253\)$/m);
  });

  it("installs the service, neither enabled nor started", async () => {
    await rpm("-i", ...CHANGE, before);
    expect(await rpm("-q", "kvmnatd")).toBe(basename(before, ".rpm"));
    expect(await rpm("-V", "--nodeps", "kvmnatd")).toBe("");
    expect(await said("systemctl is-enabled kvmnatd || :")).toBe("disabled");
    expect(await said("id -nG kvmnatd")).toBe("kvmnatd");
    expect(await said("kvmnatd check")).toMatch(/valid/);
  });

  it("keeps the admin's config in an upgrade", async () => {
    await machine.sh("echo '# mine' >>/etc/kvmnatd.yaml; systemctl --quiet enable kvmnatd");
    await rpm("-U", ...CHANGE, now);
    expect(await rpm("-q", "kvmnatd")).toBe(basename(now, ".rpm"));
    expect(await said("tail -n 1 /etc/kvmnatd.yaml")).toBe("# mine");
    expect(await said("systemctl is-enabled kvmnatd")).toBe("enabled");
    expect(await said("kvmnatd check")).toMatch(/valid/);
  });

  it("keeps the admin's config and the user when it is erased", async () => {
    await rpm("-e", ...CHANGE, "kvmnatd");
    const left = await machine.changes();
    expect(left.filter((path) => !/^\.\/etc\/(passwd|group|g?shadow)$/.test(path))).toEqual([
      "./etc/kvmnatd.yaml.rpmsave",
    ]);
  });
});
