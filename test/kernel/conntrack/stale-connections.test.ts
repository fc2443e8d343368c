import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import type { ExecResult, LabProcess } from "../../support/lab.ts";
import { CLIENT, CLIENT_SECOND, DB, HOST, HOST_V6, leaseRow, leaseRow6, WEB } from "../../support/world.ts";

/** Connections that began before a forward appeared or moved follow it; all others stay as they are. */
const UDP = "guests:\n  web: {ports: [5353:53/udp, 1122:22]}\n  db: {ports: [5454:53/udp, 1222:22]}\n";
const SOON = { timeout: 120_000 };
let world: DaemonWorld;

beforeEach(async () => {
  world = await createDaemonWorld("nft", "linger: 300ms\n");
  await world.configure(UDP);
});
afterEach(() => world.close());

const last = (client: LabProcess): string | undefined => client.lines.at(-1);
const told = (): readonly string[] =>
  world.log().flatMap(({ event, msg }) => (event === "conntrack-entries-removed" ? [msg] : []));

/** web and db exchange their addresses. */
function moveWeb(): Promise<void> {
  return world.leases(
    leaseRow({ mac: WEB.mac, address: DB.address }),
    leaseRow({ mac: DB.mac, address: WEB.address }),
  );
}

it("redirects a UDP client that never pauses to the guest's new address", async () => {
  await world.start();
  await world.isWell();
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`web 53 ${CLIENT}`);
  await moveWeb();
  await expect.poll(() => last(client), SOON).toBe(`db 53 ${CLIENT}`);
  // The entry is logged at the end of the pass.
  await expect
    .poll(told, SOON)
    .toContain(`web: 1 conntrack entry of udp port 5353 at ${HOST} removed that led to ${WEB.address}`);
});

it("redirects a UDP client that began before its port was published", async () => {
  await world.serve("host", "host", ["udp:5353"]);
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`host 5353 ${CLIENT}`);
  await world.start();
  await expect.poll(() => last(client), SOON).toBe(`web 53 ${CLIENT}`);
  await expect
    .poll(() => told().filter((message) => !message.includes("a late reply")), SOON)
    .toEqual([`web: 1 conntrack entry of udp port 5353 at ${HOST} removed that led to the host itself`]);
});

it("disconnects the client of a forward that ended while the daemon was dead", async () => {
  const daemon = await world.start();
  await world.isWell();
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`web 53 ${CLIENT}`);
  await daemon.kill("SIGKILL");
  await daemon.exited;
  // As if the daemon had been killed after it changed the rules and before it removed connections.
  await world.configure("guests:\n  db: {ports: [5454:53/udp]}\n");
  await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "KVMNATD-DNAT"]);
  await world.start();
  await expect
    .poll(told, SOON)
    .toEqual([`1 conntrack entry of udp port 5353 at ${HOST} removed that led to ${WEB.address}`]);
});

it.each([
  ["another port stays", "guests:\n  web: {ports: [1122:22]}\n  db: {ports: [1222:22]}\n"],
  ["no port stays", "guests: {}\n"],
])(
  "`apply` disconnects the client of a port that is no longer published, without a status file: %s",
  async (_what, rest) => {
    const apply = (): Promise<ExecResult> =>
      world.lab.kvmnatd(["apply", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
    expect((await apply()).exitCode).toBe(0);
    const client = world.send("client", HOST, 5353);
    await expect.poll(() => last(client), SOON).toBe(`web 53 ${CLIENT}`);
    await world.configure(rest);
    const { stdout } = await apply();
    expect(stdout).toContain(
      `1 conntrack entry of udp port 5353 at ${HOST} removed that led to ${WEB.address}`,
    );
    await world.serve("host", "host", ["udp:5353"]);
    await expect.poll(() => last(client), SOON).toBe(`host 5353 ${CLIENT}`);
  },
);

it("redirects a UDP client that began while a jump was missing", async () => {
  const daemon = await world.start();
  await world.isWell();
  await world.serve("host", "host", ["udp:5353"]);
  await daemon.kill("SIGSTOP");
  await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "PREROUTING"]);
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`host 5353 ${CLIENT}`);
  await daemon.kill("SIGCONT");
  await expect.poll(() => last(client), SOON).toBe(`web 53 ${CLIENT}`);
});

it("redirects a client that never pauses, or stops doing so, when `reach` changes", async () => {
  const closed = `reach: {host: false}\n${UDP}`;
  await world.configure(closed);
  await world.start();
  await world.isWell();
  await world.serve("host", "host", ["udp:5353"]);
  const client = world.send("host", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`host 5353 ${HOST}`);
  await world.configure(UDP);
  await expect.poll(() => last(client), SOON).toMatch(/^web 53 /);
  await world.configure(closed);
  await expect.poll(() => last(client), SOON).toBe(`host 5353 ${HOST}`);
});

it("removes a thousand ports of a guest that moves by one command", async () => {
  await world.configure("guests:\n  web: {ports: [20000-20999:20000-20999/udp]}\n  db: {ports: [1222:22]}\n");
  await world.start();
  await world.isWell();
  await world.lab.exec(
    ["bash", "-c", `for port in {20000..20999}; do echo hello >/dev/udp/${HOST}/$port; done`],
    { netns: "client" },
  );
  await moveWeb();
  await expect
    .poll(told, SOON)
    .toContain(`web: 1000 conntrack entries of udp at ${HOST} removed that led to ${WEB.address}`);
});

it("redirects a UDP client on IPv6 to the guest's new address", async () => {
  await world.configure(`listen: ["${HOST_V6}"]\n${UDP}`);
  await world.leases(leaseRow6(WEB), leaseRow6(DB));
  await world.start();
  await world.isWell();
  const client = world.send("client", HOST_V6, 5353);
  await expect.poll(() => last(client), SOON).toBe("web 53 fd01::2");
  await world.leases(leaseRow6({ mac: WEB.mac, v6: DB.v6 }), leaseRow6({ mac: DB.mac, v6: WEB.v6 }));
  await expect.poll(() => last(client), SOON).toBe("db 53 fd01::2");
});

it("keeps connections of forwards that do not change", async () => {
  await world.configure("guests:\n  web: {ports: [1122:22]}\n  db: {ports: [1222:22]}\n");
  await world.start();
  await world.isWell();
  const client = world.hold("client", HOST, 1222);
  await client.waitForLine(/^db 22/);
  const other = world.hold("client", HOST, 1122);
  await other.waitForLine(/^web 22/);
  await world.leases(leaseRow({ mac: WEB.mac, address: "192.168.122.77" }), leaseRow(DB));
  await expect
    .poll(told, SOON)
    .toEqual([`web: 1 conntrack entry of tcp port 1122 at ${HOST} removed that led to ${WEB.address}`]);
  client.stdin.write("still here\n");
  await client.waitForLine(/^still here$/);
});

it("keeps an established connection to the host itself when its port is published", async () => {
  await world.serve("host", "host", ["tcp:1122"]);
  const login = world.hold("client", HOST, 1122);
  await login.waitForLine(/^host 1122/);
  await world.start();
  await expect.poll(() => world.web(), SOON).toBe(`web 22 ${CLIENT}`);
  // kvmnatd looks for stale connections after it has changed the rules.
  await world.settles();
  login.stdin.write("still logged in\n");
  await login.waitForLine(/^still logged in$/);
  expect(told()).toEqual([]);
});

it("disconnects a client that is no longer admitted, and keeps one that still is", async () => {
  await world.start();
  await world.isWell();
  const denied = world.hold("client", HOST, 1122);
  await denied.waitForLine(/^web 22/);
  const udp = world.send("client", HOST, 5353);
  await expect.poll(() => last(udp), SOON).toBe(`web 53 ${CLIENT}`);
  await world.configure(
    UDP.replace("web: {", `web: {allow: [${CLIENT_SECOND}], `).replace("db: {", `db: {allow: [${CLIENT}], `),
  );
  await expect.poll(told, SOON).toHaveLength(2);
  denied.stdin.write("am I?\n");
  expect(await world.web()).toBe("denied");
  expect(await world.ask("client", "tcp", HOST, 1122, CLIENT_SECOND)).toBe(`web 22 ${CLIENT_SECOND}`);
  expect(denied.lines).not.toContain("am I?");
});

it("removes stale connections at the start after kill -9 between rules and connections", async () => {
  const daemon = await world.start();
  await world.isWell();
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`web 53 ${CLIENT}`);
  // As if the daemon had been killed after it changed the rules and before it removed connections.
  await daemon.kill("SIGKILL");
  await moveWeb();
  await hideConntrack();
  await world.lab.kvmnatd(["apply", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
  await world.lab.exec(["umount", "/usr/sbin"]);
  expect(last(client)).toBe(`web 53 ${CLIENT}`);
  await world.start();
  await expect.poll(() => last(client), SOON).toBe(`db 53 ${CLIENT}`);
});

it("logs once what to install when conntrack is missing, and forwards work", async () => {
  await hideConntrack();
  await world.start();
  await world.complains("conntrack-failed", /conntrack .*not found; install the package conntrack/);
  await moveWeb();
  await expect.poll(() => world.web(), SOON).toBe(`db 22 ${CLIENT}`);
  await world.settles();
  expect(world.log().filter(({ event }) => event === "conntrack-failed")).toHaveLength(1);
});

/** Hides the program until /usr/sbin is unmounted. */
async function hideConntrack(): Promise<void> {
  const folder = join(world.lab.dir, "sbin");
  await mkdir(folder);
  await world.lab.exec([
    "sh",
    "-ec",
    `mount -t tmpfs tmpfs ${folder} && cp -a /usr/sbin/. ${folder}/ && rm ${folder}/conntrack && mount --bind ${folder} /usr/sbin`,
  ]);
}
