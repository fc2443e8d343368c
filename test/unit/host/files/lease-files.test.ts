import { execFile } from "node:child_process";
import { chmod, chown, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { nameLeaseFile, readRunningDomains } from "../../../../src/host/files/lease-files.ts";

const LEASE_FILES = resolve(import.meta.dirname, "../../../../src/host/files/lease-files.ts");
let folder: string;
let drivers: readonly string[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "kvmnatd-domains-"));
  drivers = ["qemu", "lxc", "ch"].map((driver) => join(folder, driver));
  for (const driver of drivers.slice(0, 2)) await mkdir(driver);
  await writeFile(join(folder, "qemu", "web.xml"), "");
});
afterEach(() => rm(folder, { recursive: true }));

describe("running domains", () => {
  it("are those of all drivers that there are", async () => {
    await writeFile(join(folder, "lxc", "db.xml"), "");
    await writeFile(join(folder, "lxc", "db.pid"), "");
    expect(await readRunningDomains(drivers)).toEqual(new Set(["web", "db"]));
  });

  it("are unknown where there is no driver", async () => {
    expect(await readRunningDomains([join(folder, "ch")])).toBeUndefined();
  });

  it("are unknown where one driver's folder is closed to us: its domains may run", async () => {
    const [qemu = ""] = drivers;
    await chown(qemu, 1000, 1000);
    await chmod(qemu, 0o700);
    const program = `
      const { readRunningDomains } = await import(${JSON.stringify(LEASE_FILES)});
      console.log(await readRunningDomains(${JSON.stringify(drivers)}));`;
    // Root may read everything unless these two are taken away.
    const drop = ["--bounding-set", "-dac_override,-dac_read_search"];
    const node = [process.execPath, "--input-type=module", "--eval", program];
    const { stdout } = await promisify(execFile)("setpriv", [...drop, ...node]);
    expect(stdout.trim()).toBe("undefined");
  });
});

it.each([
  ["virbr0.status", "virbr0.status"],
  ["virbr0.macs", "virbr0.macs"],
  ["default.hostsfile", "default.hostsfile"],
  ["default.conf", "default.conf"],
  ["virbr0.status.tmp", "dnsmasq folder"],
  [".virbr0.status.swp", "dnsmasq folder"],
  ["a\nb.status", "dnsmasq folder"],
  ["", "dnsmasq folder"],
])("%j in libvirt's folder is called %j in the log", (name, expected) => {
  expect(nameLeaseFile(join("/var/lib/libvirt/dnsmasq", name))).toBe(expected);
});
