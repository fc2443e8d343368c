import { execFileSync, spawnSync } from "node:child_process";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createMachine, packageFile } from "../support/packages.ts";
import type { Machine } from "../support/packages.ts";

const INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y -q";
/** As unattended upgrades do: what the admin has changed stays. */
const UPGRADE = `${INSTALL} -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold`;

describe("the Debian package", () => {
  let machine: Machine;
  let before: string;
  let now: string;
  beforeAll(async () => {
    machine = await createMachine();
    [before, now] = await Promise.all([
      machine.bring(await packageFile("before", ".deb")),
      machine.bring(await packageFile("now", ".deb")),
    ]);
  });
  afterAll(() => machine.lab.close());
  const said = async (script: string): Promise<string> => (await machine.sh(script)).stdout.trim();

  it("passes lintian", async () => {
    // How the words in Node.js are spelt is not for us to mend, and takes half of the time.
    const args = ["--no-cfg", "--allow-root", "-X", "binaries/spelling", await packageFile("now", ".deb")];
    const { stdout } = spawnSync("lintian", args, { encoding: "utf8" });
    expect(stdout).toBe("");
  }, 400_000);

  it("depends on the packages that it needs", async () => {
    // As on a host where nothing is installed.
    const plan = await said(`: >${machine.lab.dir}/status
      ${INSTALL} -s -o Dir::State::status=${machine.lab.dir}/status ${now}`);
    for (const name of ["iptables", "nftables", "conntrack", "iproute2", "libstdc++6", "systemd"])
      expect(plan).toContain(`\nInst ${name} `);
  });

  it("installs the service, neither enabled nor started", async () => {
    await machine.sh(`${INSTALL} ${before}`);
    expect(await said("dpkg-query -W -f '${db:Status-Status} ${Version}' kvmnatd")).toBe("installed 0.0.1");
    expect(await said("systemctl is-enabled kvmnatd || :")).toBe("disabled");
  });

  it("installs files that root owns and all users can read", async () => {
    const odd = await said(`dpkg -L kvmnatd | while read -r file; do
      stat -c '%U:%G %a %F %n' "$file"; done | grep -vE '^root:root (644|755) ' || :`);
    expect(odd).toBe("");
    const programs = await said(`dpkg -L kvmnatd | while read -r file; do
      [ -d "$file" ] || [ ! -x "$file" ] || echo "$file"; done`);
    expect(programs.split("\n").toSorted()).toEqual([
      "/usr/bin/kvmnatd",
      "/usr/lib/kvmnatd/node",
      "/usr/lib/kvmnatd/with-sockets",
    ]);
    expect(await said("dpkg --verify kvmnatd")).toBe("");
  });

  it("runs on a host without Node.js", async () => {
    expect((await machine.sh("command -v node", { check: false })).exitCode).not.toBe(0);
    const { version } = JSON.parse(execFileSync("cat", ["package.json"], { encoding: "utf8" })) as {
      version: string;
    };
    expect(await said("kvmnatd --version")).toBe(version);
    expect(await said("bash -c 'exec -a x kvmnatd --version'")).toBe(version);
  });

  it("installs a config that the service can read and that publishes nothing", async () => {
    expect(await said("id -nG kvmnatd")).toBe("kvmnatd");
    expect(await said("setpriv --reuid=kvmnatd --regid=kvmnatd --clear-groups kvmnatd check")).toMatch(
      /valid/,
    );
  });

  it("keeps the admin's config in an upgrade", async () => {
    // The new version has another one to offer.
    await machine.sh(`cd ${machine.lab.dir} && dpkg-deb -R ${now} repacked &&
      echo '# new' >>repacked/etc/kvmnatd.yaml && dpkg-deb -Zgzip -z1 --root-owner-group -b repacked ${now}`);
    await machine.sh("echo '# mine' >>/etc/kvmnatd.yaml");
    await machine.sh(`${UPGRADE} ${now}`);
    expect(await said("tail -n 1 /etc/kvmnatd.yaml")).toBe("# mine");
    expect(await said("tail -n 1 /etc/kvmnatd.yaml.dpkg-dist")).toBe("# new");
    expect(await said("kvmnatd check")).toMatch(/valid/);
  });

  it("keeps the config when it is removed", async () => {
    await machine.sh("apt-get remove -y -q kvmnatd");
    expect(await machine.changes()).toEqual([
      "./etc/group",
      "./etc/gshadow",
      "./etc/kvmnatd.yaml",
      "./etc/kvmnatd.yaml.dpkg-dist",
      "./etc/passwd",
      "./etc/shadow",
    ]);
  });

  it("removes all its files when it is purged", async () => {
    await machine.sh("apt-get purge -y -q kvmnatd");
    expect(await machine.changes()).toEqual([]);
  });
});
