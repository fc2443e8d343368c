import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { createDaemonWorld } from "../support/daemon-world.ts";
import type { DaemonWorld } from "../support/daemon-world.ts";
import { startDaemon } from "../support/lab.ts";
import { CLIENT, DB, HOST_V6, leaseRow, leaseRow6, libvirtRules, NETWORKS, WEB } from "../support/world.ts";

/** What a careless admin or an odd host brings about: each was once a forward that did what it should not. */
const SOON = { timeout: 5000 };
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

it("a second network of which libvirt has written nothing yet keeps no guest of the first alive", async () => {
  await begin();
  await writeFile(join(world.dnsmasqDir, "virbr1.status"), "");
  await world.start();
  await world.isWell();
  await world.writeMacs("virbr0", { db: [DB.mac] });
  await world.becomes("web", "pending", /guest is off/);
  await world.writeLeases("virbr0", []);
  await world.becomes("db", "pending", /no live lease/);
});

describe("the folder of the leases", () => {
  const moved = (): Promise<void> =>
    world.leases(
      leaseRow({ mac: WEB.mac, address: DB.address }),
      leaseRow({ mac: DB.mac, address: WEB.address }),
    );

  it("that is made after the start is followed", async () => {
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

  it("that is deleted and made anew is followed", async () => {
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

it("an allowlist that lets everybody in settles", async () => {
  await begin("guests:\n  web: {ports: [1122:22], allow: [0.0.0.0/0]}\n");
  await world.start();
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
  expect(await plan()).toContain("no changes");
});

it("an IPv6 allowlist that gets narrower lets fewer in", async () => {
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

it("rows that nest thousands deep are told and hide no other", async () => {
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

it("a change to iptables-legacy that cannot be made leaves nft's rules until it can", async () => {
  await begin();
  await world.start();
  await world.isWell();
  const lock = world.lab.spawn(["flock", "/run/xtables.lock", "sh", "-c", "echo held; exec sleep 12"]);
  await lock.waitForLine(/held/);
  await writeFile(world.config, "iptables: legacy\nguests:\n  web: {ports: [1122:22]}\n");
  await world.complains("command", /xtables lock/);
  expect(await world.web()).toBe(WEB_ANSWERS);
  await lock.kill("SIGKILL");
  await expect.poll(() => world.rules("nat"), { timeout: 15_000 }).not.toContain("KVMNATD-DNAT");
  expect(await sh("iptables-legacy-save -t nat")).toContain("KVMNATD-DNAT");
});

it("a rule in a chain of ours that iptables cannot delete by its own words goes with the chain", async () => {
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

it("native rules in a table that is of no use to us are in nobody's way", async () => {
  await begin();
  await sh(
    "iptables-nft -t mangle -A FORWARD -j ACCEPT; nft add rule ip mangle FORWARD meta mark set jhash ip saddr mod 2",
  );
  await world.start();
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
});

it("a name is not free for the taking because its holder's network is down", async () => {
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

it("libvirt's reject in the other variant is told, with what to do", async () => {
  await begin();
  await world.lab.exec(["iptables-legacy-restore"], { input: libvirtRules(NETWORKS) });
  await world.start();
  await world.complains("other-variant", /virbr0.* are in iptables-legacy, and reject there/);
  expect(await world.web()).toBe("denied");
  await sh("iptables-legacy -F LIBVIRT_FWI");
  await world.lab.exec(["sh", "-c", `kill -HUP ${(await world.status()).pid}`]);
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
});

it("a config behind a folder link that leads elsewhere later is read there, now and when it changes", async () => {
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
