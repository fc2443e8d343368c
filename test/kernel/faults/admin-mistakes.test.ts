import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { PROGRAM, startDaemon } from "../../support/lab.ts";
import {
  CLIENT,
  DB,
  HOST,
  HOST_V6,
  leaseRow,
  leaseRow6,
  libvirtRules,
  NETWORKS,
  WEB,
} from "../../support/world.ts";

/** Mistakes of an admin and unusual hosts; each of them once caused a wrong forward. */
const SOON = { timeout: 120_000 };
const WEB_ANSWERS = `web 22 ${CLIENT}`;
let world: DaemonWorld;

afterEach(() => world.close());

async function begin(config?: string): Promise<void> {
  world = await createDaemonWorld("nft", "linger: 300ms\n");
  if (config !== undefined) await world.configure(config);
}

async function sh(script: string): Promise<string> {
  return (await world.lab.exec(["sh", "-ec", script])).stdout;
}

const plan = async (): Promise<string> =>
  (await world.lab.kvmnatd(["plan", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir])).stdout;

it("a guest of one network is reported as off while the lease file of another network is empty", async () => {
  await begin();
  await writeFile(join(world.dnsmasqDir, "virbr1.status"), "");
  await world.start();
  await world.isWell();
  await world.writeMacs("virbr0", { db: [DB.mac] });
  await world.becomes("web", "pending", /guest is off/);
  await world.writeLeases("virbr0", []);
  await world.becomes("db", "pending", /no live lease/);
});

describe("the lease folder", () => {
  const moved = (): Promise<void> =>
    world.leases(
      leaseRow({ mac: WEB.mac, address: DB.address }),
      leaseRow({ mac: DB.mac, address: WEB.address }),
    );

  it("is watched when it is created after the start", async () => {
    await begin();
    await rm(world.dnsmasqDir, { recursive: true });
    await world.start();
    await world.complains("waiting");
    await mkdir(world.dnsmasqDir);
    await world.writeMacs("virbr0", { web: [WEB.mac], db: [DB.mac] });
    await world.leases();
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
    await world.settles();
    await moved();
    await expect.poll(() => world.web(), SOON).toBe(`db 22 ${CLIENT}`);
  });

  it("is watched again when it is deleted and created", async () => {
    await begin();
    await world.start();
    await world.isWell();
    await rename(world.dnsmasqDir, `${world.dnsmasqDir}.old`);
    await world.settles();
    await mkdir(world.dnsmasqDir);
    await world.writeMacs("virbr0", { web: [WEB.mac], db: [DB.mac] });
    await moved();
    await expect.poll(() => world.web(), SOON).toBe(`db 22 ${CLIENT}`);
    await world.settles();
    await world.leases();
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  });
});

it("an allowlist of 0.0.0.0/0 causes no drift", async () => {
  await begin("guests:\n  web: {ports: [1122:22], allow: [0.0.0.0/0]}\n");
  await world.start();
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
  expect(await plan()).toContain("no changes");
});

it("a narrower IPv6 allowlist denies clients that it no longer includes", async () => {
  const config = (allow: string): string =>
    `listen: ["${HOST_V6}"]\nguests:\n  web: {ports: [1122:22], allow: ["${allow}"]}\n`;
  await begin(config("fd01::/32"));
  await world.writeLeases("virbr0", [leaseRow6(WEB)]);
  await world.start();
  const ask = (): Promise<string> => world.ask("client", "tcp", HOST_V6, 1122);
  await expect.poll(ask, SOON).toBe("web 22 fd01::2");
  await world.configure(config("fd01::/128"));
  await expect.poll(ask, SOON).toBe("denied");
});

it("lease rows nested thousands deep are reported and hide no other row", async () => {
  await begin();
  await world.start();
  await world.isWell();
  const deep = `${"[".repeat(6000)}${"]".repeat(6000)}`;
  const file = join(world.dnsmasqDir, "virbr0.status");
  await writeFile(
    `${file}.new`,
    `[{"ip-address": ${deep}, "mac-address": "x"}, ${JSON.stringify(leaseRow(WEB))}]`,
  );
  await rename(`${file}.new`, file);
  await world.complains("lease-row", /ip-address a list is not/);
  expect(await world.web()).toBe(WEB_ANSWERS);
});

it("a change to iptables-legacy keeps the rules in nft until it succeeds", async () => {
  await begin();
  await world.start();
  await world.isWell();
  const lock = world.lab.spawn(["flock", "/run/xtables.lock", "sh", "-c", "echo held; exec cat"]);
  await lock.waitForLine(/held/);
  await writeFile(world.config, "iptables: legacy\nguests:\n  web: {ports: [1122:22]}\n");
  await world.complains("command-failed", /xtables lock/);
  expect(await world.web()).toBe(WEB_ANSWERS);
  lock.stdin.end();
  await expect.poll(() => world.rules("nat"), { timeout: 120_000 }).not.toContain("KVMNATD-DNAT");
  expect(await sh("iptables-legacy-save -t nat")).toContain("KVMNATD-DNAT");
});

it("a rule in a kvmnatd chain that iptables cannot delete by specification is removed with the chain", async () => {
  await begin();
  await world.start();
  await world.isWell();
  await sh("iptables-nft -t nat -A KVMNATD-DNAT -m recent --name x --set -j RETURN");
  await world.leases(
    leaseRow({ mac: WEB.mac, address: DB.address }),
    leaseRow({ mac: DB.mac, address: WEB.address }),
  );
  await expect.poll(() => world.web(), SOON).toBe(`db 22 ${CLIENT}`);
  expect(await world.rules("nat")).not.toContain("-m recent");
});

it("native rules in a table that kvmnatd does not use cause no problem", async () => {
  await begin();
  await sh(
    "iptables-nft -t mangle -A FORWARD -j ACCEPT; nft add rule ip mangle FORWARD meta mark set jhash ip saddr mod 2",
  );
  await world.start();
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
});

it("a hostname stays with its incumbent while the incumbent's network is down", async () => {
  await begin("guests:\n  site: {hostname: site, ports: [1122:22]}\n");
  await world.writeLeases("virbr0", [leaseRow(WEB, { hostname: "site" })]);
  await world.start();
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  await world.forgeLeases("virbr1", [
    leaseRow({ mac: "52:54:00:6c:3c:66", address: "10.7.0.66" }, { hostname: "site" }),
  ]);
  await world.becomes("site", "active", /conflict/);
  await sh("ip link set virbr0 down");
  await world.becomes("site", "pending", /virbr0 is down/);
  expect(await world.rules("nat")).not.toContain("10.7.0.66");
});

it("kvmnatd reports libvirt's flushed rules until libvirt restarts, unless kvmnatd started after the flush", async () => {
  await begin();
  const codes = async (): Promise<readonly string[]> =>
    (await world.status()).problems.map(({ code }) => code);
  const libvirtRestarts = (): Promise<unknown> =>
    world.lab.exec(["iptables-nft-restore", "--noflush"], { input: libvirtRules(NETWORKS) });
  const daemon = await world.start();
  await world.isWell();
  await sh("nft flush ruleset");
  await world.complains(
    "libvirt-rules-missing",
    /IPv4 rules for virbr0, virbr1 are gone.*systemctl restart libvirtd/,
  );
  expect(await world.web()).toBe(WEB_ANSWERS);
  await libvirtRestarts();
  await expect.poll(codes, SOON).not.toContain("libvirt-rules-missing");
  await world.isWell();
  await daemon.stop();
  await sh("nft flush ruleset");
  await world.start();
  await world.isWell();
  expect(await codes()).not.toContain("libvirt-rules-missing");
  // After libvirt's restart kvmnatd detects the next flush.
  await libvirtRestarts();
  await world.settles();
  await sh("nft flush ruleset");
  await world.complains("libvirt-rules-missing");
});

it("libvirt's reject in the other iptables variant is reported until it is gone", async () => {
  await begin();
  await world.lab.exec(["iptables-legacy-restore"], { input: libvirtRules(NETWORKS) });
  await world.start();
  await world.complains(
    "libvirt-rules-in-other-variant",
    /virbr0.* are in iptables-legacy, and reject there/,
  );
  expect(await world.web()).toBe("denied");
  await sh("iptables-legacy -F LIBVIRT_FWI");
  await world.lab.exec(["sh", "-c", `kill -HUP ${(await world.status()).pid}`]);
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
});

it("a config behind a linked folder is reloaded when the link changes", async () => {
  await begin();
  const { lab } = world;
  const text = (port: number): string => `guests:\n  web: {ports: [${port}:22]}\n`;
  for (const [index, folder] of ["one", "two"].entries()) {
    await mkdir(join(lab.dir, folder));
    await writeFile(join(lab.dir, folder, "map.yaml"), text(2001 + index), { mode: 0o600 });
  }
  await sh(`ln -s one ${lab.dir}/now`);
  await startDaemon(lab, ["-c", join(lab.dir, "now/map.yaml"), "--dnsmasq-dir", world.dnsmasqDir]);
  await expect.poll(() => world.rules("nat"), SOON).toContain("--dport 2001");
  await world.isWell();
  await world.settles();
  await sh(`ln -s two ${lab.dir}/later; mv -T ${lab.dir}/later ${lab.dir}/now`);
  await expect.poll(() => world.rules("nat"), SOON).toContain("--dport 2002");
  await world.settles();
  await writeFile(join(lab.dir, "two/map.yaml"), text(2003));
  await expect.poll(() => world.rules("nat"), SOON).toContain("--dport 2003");
});

it("plan reports that it waits for libvirt, and check reports that the bridge is missing", async () => {
  await begin("networks: [virbr9]\nguests:\n  web: {ports: [1122:22]}\n");
  const options = ["-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
  const planned = await world.lab.kvmnatd(["plan", ...options]);
  expect(planned.stderr).toContain("waiting for network virbr9: its bridge is not up");
  expect(planned.stdout).toContain("web: pending; network virbr9 is not there (yet)");
  const checked = await world.lab.kvmnatd(["check", ...options]);
  expect(checked.stderr).toMatch(/:3:12: warning: there is no bridge virbr9 on this host \(yet\)/);
  expect(checked.exitCode).toBe(0);
  await world.configure("listen: eth9\nguests:\n  web: {ports: [1122:22]}\n");
  const nowhere = await world.lab.kvmnatd(["plan", "-c", world.config, "--dnsmasq-dir", world.lab.dir]);
  expect(nowhere.stderr).toContain("waiting for libvirt: no network has a lease file in");
  expect(nowhere.stdout).toContain("web: pending; no network of libvirt's is there");
});

it("`leases` reports that libvirt's folder is missing", async () => {
  await begin();
  const { stdout, stderr, exitCode } = await world.lab.kvmnatd(["leases", "--dnsmasq-dir", "/nowhere"]);
  expect({ stdout, exitCode }).toEqual({ stdout: "no leases in /nowhere\n", exitCode: 0 });
  expect(stderr).toMatch(/^kvmnatd: \/nowhere: does not exist: .* \(--dnsmasq-dir\)\?$/m);
});

it("status reports a host process on a published port while it listens", async () => {
  await begin();
  await world.start();
  await world.isWell();
  const server = world.lab.spawn([
    process.execPath,
    "-e",
    'require("node:net").createServer().listen(1122, "0.0.0.0")',
  ]);
  const problems = async (): Promise<readonly string[]> =>
    (await world.shownStatus()).problems.map(({ code, message }) => `${code}: ${message}`);
  const inUse = expect.stringMatching(/^port-in-use: port 1122\/tcp of this host is in use by .*\(pid \d+\)/);
  await expect.poll(problems, SOON).toContainEqual(inUse);
  await server.kill("SIGKILL");
  await expect.poll(problems, SOON).toEqual([]);
});

it("a forward works despite an earlier RETURN for its bridge when the policy of FORWARD is DROP", async () => {
  await begin();
  await sh("iptables -P FORWARD DROP; iptables -I FORWARD -o virbr0 -j RETURN");
  await world.start();
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
  await sh("iptables -D FORWARD -o virbr0 -j RETURN; iptables -I FORWARD -j RETURN");
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
});

it("a leftover rc.local rule for a published port is reported until it is removed", async () => {
  await begin();
  await world.start();
  await world.isWell();
  const insert = (line: string): Promise<unknown> => sh(`iptables -t nat -I ${line}`);
  const remove = (line: string): Promise<unknown> => sh(`iptables -t nat -D ${line}`);
  const elsewhere = `-p tcp -m tcp --dport 1122 -j DNAT --to-destination ${DB.address}:22`;
  await insert(`PREROUTING -d ${HOST}/32 ${elsewhere}`);
  await world.complains(
    "rule-shadowed",
    /does not reach guest web \(1122\/tcp\): `iptables -t nat -A PREROUTING -d /,
  );
  expect(await world.web()).toBe(`db 22 ${CLIENT}`);
  const planned = await world.lab.kvmnatd(["plan", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
  expect(planned.stderr).toContain(`\`iptables -t nat -A PREROUTING -d ${HOST}/32 ${elsewhere}\``);
  expect(planned.exitCode).toBe(0);
  await remove(`PREROUTING -d ${HOST}/32 ${elsewhere}`);
  await world.becomes("web", "active");
  await insert(`PREROUTING ${elsewhere}`);
  await world.becomes("web", "degraded", /has the port/);
  await world.becomes("db", "active");
  await remove(`PREROUTING ${elsewhere}`);
  await world.isWell();
  expect((await world.status()).problems).toEqual([]);
  expect(await world.web()).toBe(WEB_ANSWERS);
});

it("status reports missing permission for the status file and for the counters", async () => {
  await begin();
  await world.start();
  await world.isWell();
  const asNobody = (): ReturnType<typeof world.lab.exec> =>
    world.lab.exec(
      ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", process.execPath, PROGRAM, "status"],
      { check: false, env: { RUNTIME_DIRECTORY: join(world.lab.dir, "run") } },
    );
  await sh(`chmod 755 ${world.lab.dir}; chmod 755 ${world.lab.dir}/run`);
  const seen = await asNobody();
  expect(seen).toMatchObject({ exitCode: 0, stderr: "" });
  expect(seen.stdout).toContain("packets and bytes are not shown: to read them takes root");
  await sh(`chmod 700 ${world.lab.dir}/run`);
  expect(await asNobody()).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("permission denied"),
  });
});
