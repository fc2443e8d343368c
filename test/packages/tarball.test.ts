import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createMachine, packageFile } from "../support/packages.ts";
import type { Machine } from "../support/packages.ts";

describe("the tarball", () => {
  let machine: Machine;
  /** The unpacked tarball. */
  let folder: string;
  beforeAll(async () => {
    machine = await createMachine();
    folder = join(machine.lab.dir, "unpacked");
    const archive = await packageFile("now", ".tar.gz");
    await machine.lab.exec([
      "sh",
      "-ec",
      `mkdir ${folder}; tar -xzf ${archive} -C ${folder} --strip-components=1`,
    ]);
  });
  afterAll(() => machine.lab.close());
  const said = async (script: string): Promise<string> => (await machine.sh(script)).stdout.trim();

  it("can be installed below DESTDIR", async () => {
    const target = join(machine.lab.dir, "target");
    await machine.sh(`DESTDIR=${target} PREFIX=/usr ${folder}/install.sh`);
    expect(await said(`cd ${target}; find . -name 'kvmnatd*' ! -type d | sort`)).toMatch(
      /^\.\/etc\/kvmnatd\.yaml\n\.\/usr\/bin\/kvmnatd\n\.\/usr\/lib\/kvmnatd\/kvmnatd\.js\n/,
    );
    expect(await said(`grep -rl ${target} ${target} || :`)).toBe("");
    await machine.sh(`DESTDIR=${target} PREFIX=/usr ${folder}/uninstall.sh --purge`);
    expect(await said(`find ${target} -mindepth 1`)).toBe("");
    expect(await machine.changes()).toEqual([]);
  });

  it.each(["/usr/local", "/opt/kvmnatd"])("is installed in %s, and removed", async (prefix) => {
    await machine.sh(`PREFIX=${prefix} ${folder}/install.sh`);
    expect(await said("systemctl is-enabled kvmnatd || :")).toBe("disabled");
    expect(await said("grep ^ExecStart= /usr/local/lib/systemd/system/kvmnatd.service")).toBe(
      `ExecStart=${prefix}/bin/kvmnatd run`,
    );
    expect(await said("id -nG kvmnatd")).toBe("kvmnatd");
    expect(await said(`${prefix}/bin/kvmnatd check`)).toMatch(/valid/);

    await machine.sh(`echo '# mine' >>/etc/kvmnatd.yaml; touch ${prefix}/lib/kvmnatd/of-old`);
    await machine.sh(`echo ${prefix}/lib/kvmnatd/of-old >>${prefix}/lib/kvmnatd/installed-files`);
    await machine.sh(`PREFIX=${prefix} ${folder}/install.sh`);
    expect(await said("tail -n 1 /etc/kvmnatd.yaml")).toBe("# mine");
    expect(await said(`ls ${prefix}/lib/kvmnatd`)).toBe(
      "installed-files\nkvmnatd.js\nnode\nuninstall.sh\nwith-sockets",
    );

    await machine.sh(`${prefix}/lib/kvmnatd/uninstall.sh --purge`);
    expect(await machine.changes()).toEqual([]);
  });

  it("reports what it cannot do without systemd", async () => {
    const { exitCode, stderr } = await machine.sh(`PREFIX=here ${folder}/install.sh`, { check: false });
    expect({ exitCode, stderr }).toEqual({
      exitCode: 64,
      stderr: "install.sh: PREFIX must begin with /, not be here\n",
    });
    expect((await machine.sh(`${folder}/uninstall.sh`, { check: false })).stderr).toMatch(
      /nothing is installed/,
    );
    const homeless = await machine.sh(`PREFIX=/home/x ${folder}/install.sh`, { check: false });
    expect(homeless.stderr).toMatch(
      /^install\.sh: PREFIX must not be in \/home\/x: the service does not see it/,
    );
    for (const script of ["install.sh --prefix /opt", "uninstall.sh --help", "uninstall.sh --purge now"]) {
      const { exitCode: code, stderr: usage } = await machine.sh(`${folder}/${script}`, { check: false });
      expect({ code, usage }).toEqual({ code: 64, usage: expect.stringMatching(/^usage: /) as string });
    }
    const made = await machine.lab.exec([process.execPath, "packaging/package.ts", "ppc"], { check: false });
    expect({ exitCode: made.exitCode, stderr: made.stderr.split("\n") }).toEqual({
      exitCode: 64,
      stderr: ["no machine ppc", expect.stringMatching(/^usage: npm run package /), ""],
    });
  });
});
