import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { PROGRAM } from "../../support/lab.ts";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { CLIENT, DB, leaseRow, leaseRow6, WEB } from "../../support/world.ts";

/** The host fails: working forwards stay in force, kvmnatd reports the fault, and recovers without help when it ends. */
let world: DaemonWorld;
const WEB_ANSWERS = `web 22 ${CLIENT}`;
const ELSEWHERE = { mac: WEB.mac, address: "192.168.122.12" };

afterEach(() => world.close());

/** Starts a daemon and waits for its forwards; programs in the returned folder shadow those of the host. */
async function begin(variant: "nft" | "legacy"): Promise<{ readonly bin: string }> {
  world = await createDaemonWorld(variant);
  const bin = await shadows();
  await world.start({ PATH: `${bin}:${process.env["PATH"] ?? ""}` });
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
  return { bin };
}

/** Moves web's lease to the address that db had. */
async function moveWeb(): Promise<void> {
  await world.leases(leaseRow(ELSEWHERE), leaseRow({ mac: DB.mac, address: "192.168.122.99" }));
}

async function shadows(): Promise<string> {
  // Not "bin": a copy of Debian 13's /usr/sbin/ip, which is a link to ../bin/ip, would be one to itself.
  const bin = join(world.lab.dir, "shadows");
  await mkdir(bin);
  return bin;
}

async function shadowed(bin: string, program: string, script: string): Promise<void> {
  await writeFile(join(bin, program), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}

describe("iptables-restore", () => {
  it("is run again until it succeeds", async () => {
    const { bin } = await begin("nft");
    await shadowed(
      bin,
      "iptables-nft-restore",
      "echo 'iptables-restore: line 2 failed: no luck' >&2; exit 1",
    );
    await moveWeb();
    await world.complains("command-failed", /iptables-nft-restore .*line 2 failed: no luck \(exit code 1\)/);
    await world.becomes("web", "degraded", /no luck/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    await world.lab.exec(["rm", "-r", bin]);
    await world.isWell();
    expect(await world.web()).toBe(`db 22 ${CLIENT}`);
  });

  it("is stopped when it hangs, and the daemon continues", { timeout: 400_000 }, async () => {
    const { bin } = await begin("nft");
    // The first run hangs, the next one works.
    const hangs = join(world.lab.dir, "hangs");
    const once = `[ ! -e ${hangs} ] || exec /usr/sbin/iptables-nft-restore "$@"\n: > ${hangs}\nexec sleep 1000`;
    await shadowed(bin, "iptables-nft-restore", once);
    await moveWeb();
    await expect.poll(() => existsSync(hangs)).toBe(true);
    expect(await world.web()).toBe(WEB_ANSWERS);
    await expect
      .poll(() => world.log().map(({ msg }) => msg), { timeout: 120_000 })
      .toContainEqual(
        expect.stringMatching(/iptables-nft-restore .*did not end within 15 s and was stopped/),
      );
    await world.reload();
    await world.isWell();
    expect(await world.web()).toBe(`db 22 ${CLIENT}`);
  });
});

it("on_stop: remove removes the rules when systemd kills the daemon's programs too", async () => {
  const { bin } = await begin("nft");
  await world.configure(`on_stop: remove\n${GUESTS}`);
  await expect
    .poll(() => world.log().map(({ msg }) => msg))
    .toContainEqual(expect.stringMatching(/^config reloaded/));
  await world.settles();
  // systemd kills the processes of a service until there are none: here the first one, and the first one that would read
  // that the rules are removed.
  const isKilled = (file: string): string =>
    `[ -e ${world.lab.dir}/${file} ] || { : > ${world.lab.dir}/${file}; kill $$; }`;
  const isThere = "/usr/sbin/iptables-nft-save | grep -q kvmnatd:";
  await shadowed(
    bin,
    "iptables-save",
    `${isKilled("first")}\n${isThere} || ${isKilled("after")}\nexec /usr/sbin/iptables-nft-save "$@"`,
  );
  await world.lab.exec(["sh", "-c", "kill -TERM $(pgrep -x kvmnatd)"]);
  await expect.poll(() => world.log().map(({ msg }) => msg)).toContain("kvmnatd stops; rules removed");
  expect(`${await world.rules("nat")}${await world.rules("filter")}`).not.toContain("kvmnatd:");
  expect(existsSync(join(world.lab.dir, "after"))).toBe(true);
  expect(world.log().map(({ msg }) => msg)).toContainEqual(
    expect.stringMatching(/^- iptables -t nat -D KVMNATD-DNAT .*:22$/),
  );
});

it("iptables-restore under its plain name, as `iptables: auto` runs it, is run again until it succeeds", async () => {
  world = await createDaemonWorld("nft");
  const bin = join(world.lab.dir, "plain");
  await mkdir(bin);
  await writeFile(world.config, `iptables: auto\n${GUESTS}`);
  // Fails twice, then succeeds: it counts its runs in a file beside itself.
  const count = `echo x >>${bin}/count; [ $(wc -l <${bin}/count) -gt 2 ] || { echo 'no luck' >&2; exit 4; }`;
  await shadowed(bin, "iptables-restore", `${count}\nexec /usr/sbin/iptables-restore "$@"`);
  await world.start({ PATH: `${bin}:${process.env["PATH"] ?? ""}` });
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(WEB_ANSWERS);
  await world.isWell();
  const messages = (): readonly string[] => world.log().map(({ msg }) => msg);
  // The status comes before the line.
  await expect.poll(messages).toContainEqual(expect.stringMatching(/^over: iptables-restore /));
  expect(messages()).toContainEqual(expect.stringMatching(/^iptables-restore .*no luck \(exit code 4\)/));
});

it(
  "the daemon waits for the xtables lock that another program holds for longer than a pass waits",
  { timeout: 400_000 },
  async () => {
    await begin("legacy");
    const holder = world.lab.spawn(["flock", "/run/xtables.lock", "sh", "-c", "echo held; exec cat"]);
    await holder.waitForLine(/held/);
    await moveWeb();
    await expect
      .poll(() => world.log().map(({ msg }) => msg), { timeout: 120_000 })
      .toContainEqual(expect.stringMatching(/iptables-legacy-restore .*lock/));
    expect(await world.web()).toBe(WEB_ANSWERS);
    holder.stdin.end();
    await holder.exited;
    await world.isWell();
    expect(await world.web()).toBe(`db 22 ${CLIENT}`);
  },
);

it("a table with native nftables rules is reported until they are gone", async () => {
  await begin("nft");
  await world.lab.exec([
    "nft",
    "add",
    "rule",
    "ip",
    "nat",
    "PREROUTING",
    "ct",
    "mark",
    "set",
    "numgen",
    "inc",
    "mod",
    "2",
  ]);
  await moveWeb();
  await world.complains("incompatible-table", /table ip nat: .*native nftables rules.*nft list table ip nat/);
  await world.becomes("web", "degraded", /native nftables rules/);
  expect(await world.web()).toBe(WEB_ANSWERS);
  const { stdout } = await world.lab.exec(["nft", "-a", "list", "chain", "ip", "nat", "PREROUTING"]);
  const handle = /numgen.*# handle (\d+)/.exec(stdout)?.[1] ?? "";
  await world.lab.exec(["nft", "delete", "rule", "ip", "nat", "PREROUTING", "handle", handle]);
  await world.isWell();
  expect(await world.web()).toBe(`db 22 ${CLIENT}`);
});

it("a missing iptables is reported with its package, and used when it is installed", async () => {
  world = await createDaemonWorld("nft");
  const bin = await shadows();
  // A host without iptables: PATH has only the other programs that the daemon runs.
  await world.lab.exec([
    "sh",
    "-c",
    `mount -t tmpfs tmpfs ${bin} && cp -a /usr/sbin/. ${bin}/ && rm ${bin}/*tables* && mount --bind ${bin} /usr/sbin`,
  ]);
  // The daemon runs programs outside /usr/sbin, so that /usr/sbin is not busy at the umount.
  await world.start({ PATH: `${bin}:${process.env["PATH"] ?? ""}` });
  await world.complains("command-failed", /iptables-nft-save: not found; install the package iptables/);
  await world.lab.exec(["umount", "/usr/sbin"]);
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
});

it("apply reports missing CAP_NET_ADMIN", async () => {
  world = await createDaemonWorld("nft");
  const { exitCode, stderr } = await world.lab.exec(
    [
      "setpriv",
      "--bounding-set",
      "-net_admin",
      "--inh-caps",
      "-net_admin",
      process.execPath,
      PROGRAM,
      "apply",
      "-c",
      world.config,
      "--dnsmasq-dir",
      world.dnsmasqDir,
    ],
    { check: false },
  );
  expect(exitCode).toBe(1);
  expect(stderr).toMatch(/kvmnatd needs root or CAP_NET_ADMIN/);
});

it("a daemon without CAP_NET_ADMIN reports that, changes no rule and keeps running", async () => {
  await begin("nft");
  await world.lab.exec(["sh", "-c", "kill -KILL $(pgrep -of 'kvmnatd.js run')"]);
  await moveWeb();
  const command = [process.execPath, PROGRAM, "run", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
  const drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
  const powerless = world.lab.spawn([...drop, ...command]);
  await powerless.waitForLine(/kvmnatd needs root or CAP_NET_ADMIN/);
  await world.complains(
    "change-monitoring-degraded",
    /^`nft monitor` may not listen, which takes root or CAP_NET_ADMIN: kvmnatd checks everything/,
  );
  expect(await world.web()).toBe(WEB_ANSWERS);
  await powerless.kill("SIGTERM");
  expect(await powerless.exited).toBe(0);
  await world.start();
  await world.isWell();
  expect(await world.web()).toBe(`db 22 ${CLIENT}`);
});

it("the daemon changes no rule while it cannot read the rules", async () => {
  const { bin } = await begin("nft");
  await shadowed(bin, "iptables-nft-save", "echo 'no memory' >&2; exit 1");
  await moveWeb();
  await world.complains("command-failed", /iptables-nft-save.*no memory/);
  expect(await world.web()).toBe(WEB_ANSWERS);
  await world.lab.exec(["rm", "-r", bin]);
  await world.isWell();
  expect(await world.web()).toBe(`db 22 ${CLIENT}`);
});

it("an unreadable link list is reported beside an earlier problem, which stays reported", async () => {
  const { bin } = await begin("nft");
  await world.configure("not a map\n");
  await world.complains("config-invalid", /stays in force/);
  await shadowed(bin, "ip", "echo 'no memory' >&2; exit 1");
  await moveWeb();
  await world.complains("command-failed", /ip -json .*no memory/);
  await world.complains("config-invalid", /stays in force/);
  await world.becomes("web", "active");
  expect(await world.web()).toBe(WEB_ANSWERS);
  expect(world.log().filter(({ msg }) => msg.startsWith("over:"))).toStrictEqual([]);
  await world.configure(GUESTS);
  await world.lab.exec(["rm", "-r", bin]);
  await world.isWell();
  expect(await world.web()).toBe(`db 22 ${CLIENT}`);
});

it("disabled IPv6 forwarding is reported, and IPv4 forwards follow their leases", async () => {
  world = await createDaemonWorld("nft");
  const forwarding = (value: 0 | 1): Promise<unknown> =>
    world.lab.exec(["sh", "-c", `echo ${value} > /proc/sys/net/ipv6/conf/all/forwarding`]);
  await forwarding(0);
  await world.configure(`listen: ["0.0.0.0", "::"]\n${GUESTS}`);
  await world.writeLeases("virbr0", [leaseRow(WEB), leaseRow6(WEB), leaseRow(DB), leaseRow6(DB)]);
  await world.start();
  await world.complains("ipv6-forwarding", /net\.ipv6\.conf\.all\.forwarding is 0/);
  // A state of the host and not a failure: kvmnatd does not retry.
  await world.settles();
  // No guest answers at the address of the ended lease.
  await world.lab.exec(["ip", "-4", "-n", "web", "address", "flush", "dev", "eth0"]);
  await world.writeLeases("virbr0", [leaseRow6(WEB), leaseRow(DB), leaseRow6(DB)]);
  await expect.poll(() => world.rules("nat"), { timeout: 120_000 }).not.toContain(`${WEB.address}:22`);
  const removals = (): readonly unknown[] =>
    world.log().flatMap(({ action, reason }) => (action === "remove" ? [reason] : []));
  // Not `retry`; a second look that comes late finds the end of its linger as well.
  await expect.poll(removals).toEqual([expect.stringMatching(/^(timer|virbr0\.status)$/)]);
  await forwarding(1);
  const codes = async (): Promise<readonly string[]> =>
    (await world.status()).problems.map(({ code }) => code);
  await expect.poll(codes, { timeout: 120_000 }).not.toContain("ipv6-forwarding");
});

it("without `nft monitor` the daemon follows leases, and restores lost rules by polling", async () => {
  world = await createDaemonWorld("nft");
  const bin = await shadows();
  await shadowed(bin, "nft", "echo 'Operation not supported' >&2; exit 1");
  await world.start({ PATH: `${bin}:${process.env["PATH"] ?? ""}` });
  await world.isWell();
  await world.complains("change-monitoring-degraded", /nft monitor/);
  for (const table of ["nat", "filter"]) await world.lab.exec(["iptables-nft", "-t", table, "-F"]);
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(WEB_ANSWERS);
  await moveWeb();
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
});

it("an xtables lock that cannot be opened is reported, and the daemon recovers", async () => {
  await begin("legacy");
  await world.lab.exec(["sh", "-c", "rm /run/xtables.lock && mount -o remount,ro /run"]);
  await moveWeb();
  await world.complains("command-failed", /iptables-legacy-.*xtables\.lock/);
  expect(await world.web()).toBe(WEB_ANSWERS);
  await world.lab.exec(["mount", "-o", "remount,rw", "/run"]);
  await world.isWell();
  expect(await world.web()).toBe(`db 22 ${CLIENT}`);
});

it.each([
  ["read-only", "EROFS", "mount -t tmpfs -o ro tmpfs $1"],
  ["full", "ENOSPC", "mount -t tmpfs -o size=4k tmpfs $1; head -c 4096 /dev/zero > $1/full"],
])("forwards work with a %s runtime folder", async (_what, code, make) => {
  world = await createDaemonWorld("nft");
  const folder = join(world.lab.dir, "other");
  await mkdir(folder);
  await world.lab.exec(["sh", "-ec", make, "sh", folder]);
  const daemon = await world.start({ RUNTIME_DIRECTORY: folder });
  await daemon.waitForLine(new RegExp(`status\\.json cannot be written \\(${code}\\)`));
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(WEB_ANSWERS);
  await moveWeb();
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
  const reported = daemon.log().filter(({ msg }) => msg.includes("cannot be written"));
  // The problem claims nothing about forwards.
  expect(reported.map(({ msg }) => msg)).toEqual([expect.not.stringContaining("forwards")]);
});
