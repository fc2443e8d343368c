import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { PROGRAM } from "../support/lab.ts";
import { createDaemonWorld } from "../support/daemon-world.ts";
import type { DaemonWorld } from "../support/daemon-world.ts";
import { CLIENT, DB, leaseRow, WEB } from "../support/world.ts";

/** The host fails in some way: working forwards go on, the fault is told, and all is right by itself afterwards. */
let world: DaemonWorld;
const WEB_ANSWERS = `web 22 ${CLIENT}`;
const ELSEWHERE = { mac: WEB.mac, address: "192.168.122.12" };

afterEach(() => world.close());

async function begin(variant: "nft" | "legacy", env: Readonly<Record<string, string>> = {}): Promise<void> {
  world = await createDaemonWorld(variant);
  await world.start(env);
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
}

/** web's lease moves to where db was. */
async function moveWeb(): Promise<void> {
  await world.leases(leaseRow(ELSEWHERE), leaseRow({ mac: DB.mac, address: "192.168.122.99" }));
}

/** A folder before all others in PATH, for programs that fail on purpose. */
async function shadow(): Promise<{ readonly bin: string; readonly env: Readonly<Record<string, string>> }> {
  const bin = join("/tmp", `kvmnatd-shadow-${process.pid}-${Math.random().toString(36).slice(2)}`);
  await mkdir(bin);
  return { bin, env: { PATH: `${bin}:${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` } };
}

async function shadowed(bin: string, program: string, script: string): Promise<void> {
  await writeFile(join(bin, program), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}

describe("iptables-restore", () => {
  it("that fails is tried again until it works", async () => {
    const { bin, env } = await shadow();
    await begin("nft", env);
    await shadowed(
      bin,
      "iptables-nft-restore",
      "echo 'iptables-restore: line 2 failed: no luck' >&2; exit 1",
    );
    await moveWeb();
    await world.complains("command", /iptables-nft-restore .*line 2 failed: no luck \(exit code 1\)/);
    await world.becomes("web", "degraded", /no luck/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    await world.lab.exec(["rm", "-r", bin]);
    await world.isWell();
    expect(await world.web()).toBe(`db 22 ${CLIENT}`);
  });

  it("that hangs is stopped, and everything goes on", { timeout: 90_000 }, async () => {
    const { bin, env } = await shadow();
    await begin("nft", env);
    await shadowed(bin, "iptables-nft-restore", "exec sleep 1000");
    await moveWeb();
    await expect
      .poll(() => world.log().map(({ msg }) => msg), { timeout: 30_000 })
      .toContainEqual(
        expect.stringMatching(/iptables-nft-restore .*did not end within 15 s and was stopped/),
      );
    expect(await world.web()).toBe(WEB_ANSWERS);
    await world.lab.exec(["rm", "-r", bin]);
    await world.isWell();
    expect(await world.web()).toBe(`db 22 ${CLIENT}`);
  });
});

it("xtables' lock, held for 10 s by another, is waited for", { timeout: 90_000 }, async () => {
  await begin("legacy");
  const holder = world.lab.spawn(["flock", "/run/xtables.lock", "sh", "-c", "echo held; sleep 10"]);
  await holder.waitForLine(/held/);
  await moveWeb();
  await expect
    .poll(() => world.log().map(({ msg }) => msg), { timeout: 12_000 })
    .toContainEqual(expect.stringMatching(/iptables-legacy-restore .*lock/));
  expect(await world.web()).toBe(WEB_ANSWERS);
  await holder.exited;
  await world.isWell();
  expect(await world.web()).toBe(`db 22 ${CLIENT}`);
});

it("a table with native nftables rules is named, and is no more once they are gone", async () => {
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

it("iptables that is missing is named with its package, and used once it is there", async () => {
  world = await createDaemonWorld("nft");
  const { bin, env } = await shadow();
  // A host without iptables: only what else the daemon needs is in PATH.
  await world.lab.exec([
    "sh",
    "-c",
    `mount -t tmpfs tmpfs ${bin} && cp -a /usr/sbin/. ${bin}/ && rm ${bin}/*tables* && mount --bind ${bin} /usr/sbin`,
  ]);
  await world.start(env);
  await world.complains("command", /iptables-nft-save: not found; install the package iptables/);
  await world.lab.exec(["umount", "/usr/sbin"]);
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
});

it("without CAP_NET_ADMIN it says what it lacks", async () => {
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

it("a runtime folder that cannot be written stops no forward", async () => {
  world = await createDaemonWorld("nft");
  const folder = join(world.lab.dir, "ro");
  await mkdir(folder);
  await world.lab.exec(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder]);
  const daemon = await world.start({ RUNTIME_DIRECTORY: folder });
  await daemon.waitForLine(/status\.json cannot be written \(EROFS\)/);
  await expect.poll(() => world.web(), { timeout: 5000 }).toBe(WEB_ANSWERS);
  await moveWeb();
  await expect.poll(() => world.web(), { timeout: 5000 }).toBe(`db 22 ${CLIENT}`);
  expect(daemon.log().filter(({ msg }) => msg.includes("cannot be written"))).toHaveLength(1);
});
