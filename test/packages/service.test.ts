import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createMachine, packageFile, rpmOptions } from "../support/packages.ts";
import type { Machine } from "../support/packages.ts";

/** systemd's and the daemon's part are played: what they are told, one after the other, is in /run/told. */
const PLAY = `
mkdir -p /run/systemd/system /run/kvmnatd
rm -f /usr/sbin/policy-rc.d /usr/bin/systemctl
cat >/usr/bin/systemctl <<'END'
#!/bin/sh
echo "systemctl $*" >>/run/told
case $* in *is-active*) [ -e /run/active ] ;; esac
END
chmod 755 /usr/bin/systemctl`;
const DAEMON = `read -r request; echo "kvmnatd $request" >>/run/told; echo '{"exitCode":0,"text":""}'`;
const CHAIN = "KVMNATD-DNAT";

/** The lab's programs have another runtime folder than a service. */
const RPM = `env -u RUNTIME_DIRECTORY rpm --root /run/tree --dbpath /var/lib/rpm ${rpmOptions().join(" ")}`;

describe.each([
  { kind: ".deb", inside: true, install: "dpkg -i", remove: "dpkg -r kvmnatd" },
  { kind: ".rpm", inside: false, install: `${RPM} -U`, remove: `${RPM} -e kvmnatd` },
] as const)("a service, with the $kind", ({ kind, inside, install, remove }) => {
  let machine: Machine;
  let before: string;
  let now: string;
  beforeAll(async () => {
    machine = await createMachine();
    before = await machine.bring(await packageFile("before", kind));
    now = await machine.bring(await packageFile("now", kind));
    await machine.sh(PLAY);
    machine.lab.spawn(["socat", "UNIX-LISTEN:/run/kvmnatd/control,fork", `SYSTEM:${DAEMON}`]);
  });
  afterAll(() => machine.lab.close());
  beforeEach(() => machine.sh(": >/run/told"));

  // rpm changes a root from outside.
  const change = (command: string): Promise<unknown> =>
    inside ? machine.sh(command) : machine.lab.exec(["sh", "-ec", command], { timeoutMs: 180_000 });
  const told = async (): Promise<readonly string[]> =>
    (await machine.sh("grep -vE 'daemon-reload|is-active' /run/told || :")).stdout
      .split("\n")
      .filter((line) => line !== "");
  const hasChain = async (): Promise<boolean> =>
    (await machine.sh(`iptables -t nat -S ${CHAIN}`, { check: false })).exitCode === 0;

  it("is not started when the package is installed", async () => {
    await change(`${install} ${before}`);
    expect(await told()).toEqual([]);
    expect((await machine.sh("grep -c daemon-reload /run/told")).stdout).not.toBe("0\n");
    expect((await machine.sh("stat -c '%a %U %G' /run/xtables.lock")).stdout).toBe("640 root kvmnatd\n");
  });

  it("is restarted by an upgrade if it runs, and hands its rules over to the new daemon", async () => {
    await machine.sh("touch /run/active");
    await change(`${install} ${now}`);
    expect(await told()).toEqual(["kvmnatd handover", "systemctl try-restart kvmnatd.service"]);
  });

  it("is stopped when a chroot removes the package; the rules of the host stay", async () => {
    await machine.sh(`iptables -t nat -N ${CHAIN}`);
    await change(remove);
    expect(await told()).toEqual([
      "systemctl stop kvmnatd.service",
      "systemctl --quiet --no-reload disable kvmnatd.service",
    ]);
    expect(await hasChain()).toBe(true);
  });
});

describe("the rules", () => {
  let machine: Machine;
  beforeAll(async () => {
    machine = await createMachine();
  });
  afterAll(() => machine.lab.close());

  it.each([
    ["the .deb is removed", ".deb", (file: string) => `dpkg -i ${file}`, "dpkg -r kvmnatd"],
    [
      "uninstall.sh runs",
      ".tar.gz",
      (file: string) =>
        `mkdir /root/new; tar -xzf ${file} -C /root/new --strip-components=1; /root/new/install.sh`,
      "/usr/local/lib/kvmnatd/uninstall.sh",
    ],
  ] as const)("go when %s", async (_what, kind, install, remove) => {
    const file = await machine.bring(await packageFile("now", kind));
    await machine.sh(install(file));
    await machine.sh(`iptables -t nat -N ${CHAIN}; iptables -t nat -A PREROUTING -j ACCEPT`);
    await machine.shAsHost(remove);
    const { stdout } = await machine.sh("iptables -t nat -S");
    expect(stdout).not.toContain(CHAIN);
    expect(stdout).toContain("-A PREROUTING -j ACCEPT");
  });
});
