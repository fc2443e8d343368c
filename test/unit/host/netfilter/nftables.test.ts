import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { createLauncher } from "../../../../src/host/exec/launcher.ts";
import { readLibvirtTables } from "../../../../src/host/netfilter/nftables.ts";

let folder: string;
/** One folder for all tests, because programs are found in the PATH of the first start. */
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "kvmnatd-nft-"));
  vi.stubEnv("PATH", `${folder}:${process.env["PATH"] ?? ""}`);
});
beforeEach(async () => {
  for (const name of ["count", "starts"]) await rm(join(folder, name), { force: true });
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

/** Writes an nft that lists the chains of libvirt's tables and prints a table, and fails `times` times for `family`. */
async function nft(family: string, complaint: string, times: number, tables = "ip ip6"): Promise<void> {
  const script = `#!/bin/sh
for word; do case $word in ip|ip6|chains) break; esac; done
if [ $word = "${family}" ] && [ "$(cat ${folder}/count 2>/dev/null | wc -l)" -lt ${times} ]; then
  echo x >>${folder}/count
  echo "Error: ${complaint}" >&2
  exit 1
fi
echo "$@" >>${folder}/starts
if [ $word = chains ]; then
  printf 'table %s libvirt_network {\n\tchain forward {\n\t}\n}\n' ${tables}
  exit
fi
printf 'table %s libvirt_network {\n\tchain forward {\n\t\tjump guest_input # handle 1\n\t}\n}\n' $word
`;
  await writeFile(join(folder, "nft"), script, { mode: 0o755 });
}

const families = async (): Promise<readonly number[]> => [
  ...(await readLibvirtTables(createLauncher())).keys(),
];

describe("libvirt's own tables", () => {
  it("are read for each family that has one", async () => {
    await nft("", "", 0);
    expect(await families()).toEqual([4, 6]);
    await nft("ip", "No such file or directory", 100);
    expect(await families()).not.toContain(4);
  });

  it("are none when the kernel has no nftables, and an error when nft lacks permission", async () => {
    await nft("chains", "Protocol not supported", 100);
    expect(await families()).toEqual([]);
    await nft("chains", "Operation not permitted", 100);
    await expect(readLibvirtTables(createLauncher())).rejects.toThrow(
      /nft list chains: Error: Operation not permitted/,
    );
  });

  it("are found missing with one start of nft", async () => {
    await nft("", "", 0, "inet");
    expect(await families()).toEqual([]);
    expect((await readFile(join(folder, "starts"), "utf8")).trim()).toBe("list chains");
  });

  it.each(["ip", "ip6", "chains"])("are both read when nft failed once for %s", async (family) => {
    await nft(family, "Could not process rule: Device or resource busy", 1);
    expect(await families()).toEqual([4, 6]);
  });

  it.each(["ip", "ip6"])("are an error that names the table when nft cannot read it: %s", async (family) => {
    await nft(family, "Operation not permitted", 100);
    await expect(readLibvirtTables(createLauncher())).rejects.toThrow(
      new RegExp(`table ${family} libvirt_network: Error: Operation not permitted`),
    );
  });
});
