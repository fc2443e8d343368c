import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { until } from "../support/lab.ts";
import { createServiceHost, GUEST_MAC, install } from "../support/service.ts";
import type { ServiceHost } from "../support/service.ts";
import { debianTree } from "../support/tree.ts";

const VERSION = "dpkg-query --showformat '${Version}' --show kvmnatd";
const GUESTS = `guests:\n  web: {mac: "${GUEST_MAC}", ports: ["1122:22"]}\n`;

// One opens the sockets itself (OpenFile=), the other is too old to know how.
describe.each([
  { which: "this machine's systemd", findRoot: () => "/", failures: ["fails and recovers"] },
  { which: "a newer systemd", findRoot: debianTree, failures: [] },
])("the service, with $which", ({ findRoot, failures }) => {
  let host: ServiceHost;

  beforeAll(async () => {
    host = await createServiceHost(await findRoot());
    await install(host, "before");
  }, 400_000);
  afterAll(() => host.close());
  beforeEach(({ onTestFailed }) =>
    onTestFailed(async () => {
      const told = await host.exec(["sh", "-c", "journalctl --no-pager | tail -n 60; kvmnatd status"], {
        check: false,
      });
      process.stderr.write(told.stdout);
    }),
  );

  const status = (): Promise<string> => host.show("StatusText");

  it("fails at once with a bad config, logs the reason and is not restarted", async () => {
    await host.configure("guests:\n  web: {ports: [99999:22]}\n");
    const { exitCode } = await host.systemctl("start", "kvmnatd");
    expect(exitCode).not.toBe(0);
    expect(await host.show("ExecMainStatus")).toBe("78");
    expect(await host.show("ActiveState")).toBe("failed");
    expect(await host.show("NRestarts")).toBe("0");
    const [entry] = await host.journal("KVMNATD_EVENT=config-invalid", "PRIORITY=3");
    expect(entry?.["MESSAGE"]).toMatch(/kvmnatd\.yaml:2:17: 99999 is not a valid port \(1-65535\)[^]*> 2 \|/);
  });

  it("is active and waits before libvirt runs", async () => {
    await host.configure(GUESTS);
    expect(await host.systemctl("enable", "--now", "kvmnatd")).toMatchObject({ exitCode: 0 });
    expect(await status()).toMatch(/^waiting for libvirt: .*; 0 of 1 forwards active$/);
  });

  it("forwards a port as soon as the guest has a lease", async () => {
    await host.startLibvirt();
    await host.plugGuest("web", GUEST_MAC);
    await host.reaches(1122, "web");
    await until("systemctl says so", async () => (await status()) === "1 of 1 forwards active");
  });

  it("runs as its own user with two capabilities", async () => {
    const pid = await host.show("MainPID");
    const user = await host.sh("id -u kvmnatd");
    const lines = (await host.sh(`grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' /proc/${pid}/status`)).split(
      "\n",
    );
    expect(lines.map((line) => line.replaceAll(/\s+/g, " "))).toEqual([
      `Uid: ${user} ${user} ${user} ${user}`,
      "CapEff: 0000000000003000",
      "CapBnd: 0000000000003000",
      "NoNewPrivs: 1",
    ]);
    expect(await host.sh(`cat /proc/${pid}/comm`)).toBe("kvmnatd");
  });

  it("has a systemd exposure level of 1.5 at most", async () => {
    const { exitCode } = await host.exec(["systemd-analyze", "security", "--threshold=15", "kvmnatd"], {
      check: false,
    });
    expect(exitCode).toBe(0);
  });

  it("logs each rule with journal fields", async () => {
    const [moved] = await host.journal("KVMNATD_GUEST=web", "KVMNATD_EVENT=forward-active");
    expect(moved).toMatchObject({ PRIORITY: "6", SYSLOG_IDENTIFIER: "kvmnatd", _COMM: "kvmnatd" });
    const [added] = await host.journal("KVMNATD_GUEST=web", "KVMNATD_ACTION=add");
    expect(added?.["KVMNATD_RULE"]).toMatch(/^iptables -t nat -A KVMNATD-DNAT .*--dport 1122 /);
    expect(added?.["MESSAGE"]).toBe(`+ ${added?.["KVMNATD_RULE"]}`);
    expect(added?.["KVMNATD_PASS"]).toMatch(/^\d+$/);
    expect(added?.["KVMNATD_REASON"]).not.toBe("");
  });

  it("has catalogue texts for its entries, and a history of each port", async () => {
    const explained = await host.sh("journalctl -x -u kvmnatd KVMNATD_EVENT=forward-active --no-pager");
    expect(explained).toMatch(/Subject: Ports of guest web are forwarded/);
    const history = await host.sh("kvmnatd history --port 1122");
    expect(history).toMatch(/\*:1122\/tcp +web +192\.168\.122\.\d+:22 /);
  });

  it("serves metrics on 127.0.0.1", async () => {
    await host.configure(`metrics: 9101\n${GUESTS}`);
    expect(await host.systemctl("reload", "kvmnatd")).toMatchObject({ exitCode: 0 });
    const get = String.raw`printf 'GET /metrics HTTP/1.0\r\n\r\n' | socat -t5 - TCP4:127.0.0.1:9101`;
    await until("they can be had", async () =>
      /^kvmnatd_forwards\{state="active"\} 1$/m.test(await host.sh(get)),
    );
    expect(await host.sh("ss -Hltn sport = :9101")).toMatch(/ 127\.0\.0\.1:9101 /);
    await host.configure(GUESTS);
    expect(await host.systemctl("reload", "kvmnatd")).toMatchObject({ exitCode: 0 });
  });

  it("has the new config in force when systemctl reload returns", async () => {
    await host.configure(`${GUESTS}  db: {mac: "52:54:00:6c:3c:02", ports: ["1222:22"]}\n`);
    expect(await host.systemctl("reload", "kvmnatd")).toEqual({ exitCode: 0, said: "" });
    expect(await status()).toBe("1 of 2 forwards active");
  });

  it("fails to reload a bad config, logs the reason and keeps the last good one", async () => {
    await host.configure("guests:\n  web: {ports: [1122:22], nonsense: 1}\n");
    const { exitCode, said } = await host.systemctl("reload", "kvmnatd");
    expect({ exitCode, said }).toMatchObject({ exitCode: 1, said: expect.stringContaining("failed") });
    expect(await host.sh("journalctl -u kvmnatd --no-pager")).toMatch(/yaml:2:27: unknown key "nonsense"/);
    expect(await host.show("ActiveState")).toBe("active");
    expect(await status()).toMatch(/^1 of 2 forwards active; .*unknown key "nonsense"/);
    await host.reaches(1122, "web");
    await host.configure(GUESTS);
    expect(await host.systemctl("reload", "kvmnatd")).toMatchObject({ exitCode: 0 });
  });

  it("logs every rule of a burst of 5,000 while journald restarts", async () => {
    const ports = Array.from({ length: 5000 }, (_, index) => `"${20_000 + index}:22"`);
    await host.configure(`${GUESTS}  many: {mac: "${GUEST_MAC}", ports: [${ports.join(", ")}]}\n`);
    const reload = host.systemctl("reload", "kvmnatd");
    await host.sh("systemctl restart systemd-journald");
    expect(await reload).toMatchObject({ exitCode: 0 });
    await expect
      .poll(
        async () =>
          Number(
            await host.sh(
              "journalctl -u kvmnatd KVMNATD_GUEST=many KVMNATD_ACTION=add -o cat --no-pager | wc -l",
            ),
          ),
        { timeout: 120_000 },
      )
      .toBe(5000);
    await host.configure(GUESTS);
    expect(await host.systemctl("reload", "kvmnatd")).toMatchObject({ exitCode: 0 });
  });

  it("keeps connections open during an upgrade with on_stop: remove", async () => {
    await host.configure(`on_stop: remove\n${GUESTS.replace('"1122:22"', '"1122:22", "1107:7"')}`);
    expect(await host.systemctl("reload", "kvmnatd")).toMatchObject({ exitCode: 0 });
    expect(await host.sh(VERSION)).toBe("0.0.1");
    const session = await host.openSession(1107);
    const pid = await host.show("MainPID");
    await install(host, "now");
    expect(await host.sh(VERSION)).not.toBe("0.0.1");
    await until("the new one is up", async () => (await status()) === "2 of 2 forwards active");
    expect(await host.show("MainPID")).not.toBe(pid);
    expect(await session.say("still there")).toBe("still there");
    const removals = await host.journal("KVMNATD_ACTION=remove", `_PID=${pid}`, "KVMNATD_EVENT=rule");
    expect(removals.filter(({ KVMNATD_REASON: reason }) => reason === undefined)).toEqual([]);
    expect(await host.sh("cat /etc/kvmnatd.yaml")).toContain("on_stop: remove");
  });

  it("removes its rules when it stops with on_stop: remove", async () => {
    const rules = "{ iptables-save; ip6tables-save; } | grep -c kvmnatd || true";
    expect(await host.sh(rules)).not.toBe("0");
    await host.sh("systemctl stop kvmnatd");
    const said = await host.sh("journalctl -u kvmnatd -n 30 -o cat --no-pager");
    expect(await host.sh(rules), said).toBe("0");
    expect(await host.show("Result")).toBe("success");
    await host.sh("systemctl start kvmnatd");
    await until("it is up again", async () => (await status()) === "2 of 2 forwards active");
    await host.configure(GUESTS);
    expect(await host.systemctl("reload", "kvmnatd")).toMatchObject({ exitCode: 0 });
  });

  it("is confined to what it needs by the sandbox of its unit", async () => {
    await host.sh(PROBE);
    const said = await host.sh(
      "systemctl start kvmnatd-probe; journalctl -u kvmnatd-probe -o cat --no-pager",
    );
    const outcomes = said.split("\n").filter((line) => /^(kept|let): /.test(line));
    expect(outcomes.length).toBeGreaterThan(15);
    expect(outcomes.filter((line) => line.startsWith("let: "))).toEqual([]);
  });

  // What systemd does with a service that fails is the same in both.
  describe.each(failures)("%s", () => {
    testFailures(() => host);
  });

  it("forwards again after a reboot", async () => {
    await host.reboot();
    expect(await host.show("ActiveState")).toBe("active");
    await host.startLibvirt();
    await host.plugGuest("web", GUEST_MAC);
    await host.reaches(1122, "web");
  }, 400_000);

  it("removes its rules when the package is removed, and all its files when it is purged", async () => {
    await host.exec(["apt-get", "remove", "-y", "-q", "kvmnatd"], { timeoutMs: 180_000 });
    await host.isRefused(1122);
    expect(await host.sh("iptables-save")).not.toMatch(/kvmnatd/i);
    expect(await host.sh("ls /etc/kvmnatd.yaml")).toBe("/etc/kvmnatd.yaml");
    await host.exec(["apt-get", "purge", "-y", "-q", "kvmnatd"], { timeoutMs: 180_000 });
    const left =
      "ls -d /etc/kvmnatd* /usr/lib/kvmnatd /run/kvmnatd /usr/bin/kvmnatd 2>/dev/null || true; getent passwd kvmnatd || true";
    expect(await host.sh(left)).toBe("");
  });
});

/** Needs a service that forwards port 1122 to guest web. */
function testFailures(findHost: () => ServiceHost): void {
  let host: ServiceHost;
  beforeAll(() => {
    host = findHost();
  });

  const status = (): Promise<string> => host.show("StatusText");

  it("is restarted by the watchdog when it hangs, and its rules stay in force", async () => {
    const pid = await host.show("MainPID");
    await host.sh(
      "mkdir -p /run/systemd/system/kvmnatd.service.d && printf '[Service]\\nWatchdogSec=3\\n' >/run/systemd/system/kvmnatd.service.d/w.conf && systemctl daemon-reload && systemctl restart kvmnatd",
    );
    const hanging = await host.show("MainPID");
    expect(hanging).not.toBe(pid);
    // Longer than the watchdog: what is well is left alone.
    await until(
      "it lives on",
      async () => Number(await host.show("ActiveEnterTimestampMonotonic")) / 1e6 + 4 < (await uptime()),
      120_000,
    );
    expect(await host.show("MainPID")).toBe(hanging);
    await host.sh(`kill -STOP ${hanging}`);
    await host.reaches(1122, "web");
    // 3 s until the watchdog barks, 30 s (TimeoutStopSec=) for what does not end of itself, 2 s until the next start.
    await until(
      "there is another one",
      async () => !["0", hanging].includes(await host.show("MainPID")),
      120_000,
    ).catch(async (error: unknown) => {
      throw new Error(await host.sh("systemctl status -l -n 40 --no-pager kvmnatd || :"), { cause: error });
    });
    expect(await host.sh("journalctl -u kvmnatd --no-pager")).toMatch(/Watchdog timeout/i);
    await host.reaches(1122, "web");
    await host.sh(
      "rm -r /run/systemd/system/kvmnatd.service.d && systemctl daemon-reload && systemctl restart kvmnatd",
    );
  });

  const uptime = async (): Promise<number> => Number((await host.sh("cat /proc/uptime")).split(" ")[0]);

  it("is restarted each time after several SIGKILLs", async () => {
    for (let round = 0; round < 4; round += 1) {
      const pid = await until("it runs", async () => {
        const found = await host.show("MainPID");
        return found !== "0" && (await host.show("SubState")) === "running" && found;
      });
      await host.sh(`kill -KILL ${pid}`);
      await until("it has ended", async () => (await host.show("MainPID")) !== pid);
      if (round === 0) await host.reaches(1122, "web");
    }
    await until("it is up", async () => (await status()) === "1 of 1 forwards active");
  }, 400_000);

  it("reports the missing capability when a drop-in removes it", async () => {
    await host.sh(
      "mkdir -p /run/systemd/system/kvmnatd.service.d && printf '[Service]\\nAmbientCapabilities=\\nCapabilityBoundingSet=CAP_NET_RAW\\n' >/run/systemd/system/kvmnatd.service.d/c.conf && systemctl daemon-reload && systemctl restart kvmnatd",
    );
    await until("it complains", async () => /CAP_NET_ADMIN/.test(await status()));
    await host.reaches(1122, "web");
    await host.sh(
      "rm -r /run/systemd/system/kvmnatd.service.d && systemctl daemon-reload && systemctl restart kvmnatd",
    );
    await until("it is well", async () => (await status()) === "1 of 1 forwards active");
  });

  it("moves its rules to iptables-legacy and back", async () => {
    await host.configure(`iptables: legacy\n${GUESTS}`);
    expect(await host.systemctl("reload", "kvmnatd")).toMatchObject({ exitCode: 0 });
    expect(await host.sh("iptables-legacy-save -t nat")).toMatch(/KVMNATD-DNAT .*--dport 1122 /);
    expect(await host.sh("iptables-nft-save")).not.toMatch(/KVMNATD/);
    await host.configure(GUESTS);
    expect(await host.systemctl("reload", "kvmnatd")).toMatchObject({ exitCode: 0 });
    expect(await host.sh("iptables-nft-save -t nat")).toMatch(/KVMNATD-DNAT .*--dport 1122 /);
    expect(await host.sh("iptables-legacy-save -t nat")).not.toMatch(/KVMNATD/);
    await host.reaches(1122, "web");
  });
}

/**
 * The unit with another program: what it says is what the sandbox let it do. Each line is something that a daemon which
 * was taken over would try.
 */
const PROBE = `
cat > /usr/local/lib/kvmnatd-probe <<'SH'
#!/bin/sh
try() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "let: $what"; else echo "kept: $what"; fi; }
try "writes /etc" touch /etc/x
try "writes /usr" touch /usr/x
try "writes /var/lib" touch /var/lib/x
try "writes libvirt's files" touch /var/lib/libvirt/dnsmasq/x
try "writes /run" touch /run/x
try "reads shadow" cat /etc/shadow
try "reads home folders" ls /root
try "sees other processes" ls /proc/1/root
try "kills others" kill -0 1
try "mounts" mount -t tmpfs tmpfs /tmp
try "makes a network namespace" unshare --net true
try "makes a user namespace" unshare --user true
try "becomes root" setpriv --reuid 0 true
try "gains by setuid programs" su -c true
try "sets the clock" date -s 2030-01-01
try "sets the host's name" hostname x
try "reads kernel messages" dmesg
try "loads a module" modprobe dummy
try "reads memory" head -c 1 /dev/mem
try "opens disks" head -c 1 /dev/sda
try "sets other sysctls" sh -c 'echo 1 >/proc/sys/kernel/sysrq'
try "joins control groups" mkdir /sys/fs/cgroup/x
try "calls out" sh -c 'exec 3<>/dev/udp/10.99.0.2/53' || true
try "traces" strace true
SH
chmod 755 /usr/local/lib/kvmnatd-probe
sed -e 's|^ExecStart=.*|ExecStart=/usr/local/lib/kvmnatd-probe|' -e '/^ExecReload=/d' -e '/^OpenFile=/d' -e '/^WatchdogSec=/d' \\
  -e 's/^Type=.*/Type=oneshot/' -e 's/^Restart=.*/Restart=no/' -e 's/^RuntimeDirectory=.*/RuntimeDirectory=kvmnatd-probe/' \\
  /usr/lib/systemd/system/kvmnatd.service >/etc/systemd/system/kvmnatd-probe.service
systemctl daemon-reload
`;
