import { setTimeout as pause } from "node:timers/promises";
import { afterEach, beforeEach, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { until } from "../../support/lab.ts";
import type { LabProcess } from "../../support/lab.ts";
import { CLIENT, CLIENT_SECOND, DB, HOST, leaseRow, WEB } from "../../support/world.ts";

/**
 * A reply that is on its way when its connection is removed begins one of its own, the other way round, and what the
 * client sends matches that one: it would go on to reach whom it must not. The servers here answer late and often.
 */
const SOON = { timeout: 30_000 };
let world: DaemonWorld;

beforeEach(async () => {
  world = await createDaemonWorld("nft", "linger: 300ms\n");
});
afterEach(() => world.close());

const last = (client: LabProcess): string | undefined => client.lines.at(-1);

it("a UDP client whom the host itself still answers reaches the guest", async () => {
  await world.configure("guests: {web: {ports: [5353:53/udp]}}\n");
  await world.serve("host", "host", ["late:5353"]);
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`host 5353 ${CLIENT}`);
  await world.start();
  await expect.poll(() => last(client), SOON).toBe(`web 53 ${CLIENT}`);
});

it("a UDP client whom the guest before still answers reaches the guest at its new address", async () => {
  await world.configure("guests: {web: {ports: [5353:5353/udp]}}\n");
  await world.serve("web", "web", ["late:5353"]);
  await world.serve("db", "db", ["udp:5353"]);
  await world.start();
  await world.isWell();
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`web 5353 ${CLIENT}`);
  await world.leases(
    leaseRow({ mac: WEB.mac, address: DB.address }),
    leaseRow({ mac: DB.mac, address: WEB.address }),
  );
  await expect.poll(() => last(client), SOON).toBe(`db 5353 ${CLIENT}`);
});

it("nor does it stay with the guest before when the daemon that had cut it off was killed", async () => {
  await world.configure("guests: {web: {ports: [5353:5353/udp]}}\n");
  await world.serve("web", "web", ["late:5353"]);
  await world.serve("db", "db", ["udp:5353"]);
  const daemon = await world.start();
  await world.isWell();
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`web 5353 ${CLIENT}`);
  await daemon.kill("SIGKILL");
  await daemon.exited;
  await world.leases(
    leaseRow({ mac: WEB.mac, address: DB.address }),
    leaseRow({ mac: DB.mac, address: WEB.address }),
  );
  const rule = (await world.rules("nat")).match(/^-A KVMNATD-DNAT .*--dport 5353 .*$/m)?.[0] ?? "";
  /** As the daemon did it. */
  const lead = async (address: string): Promise<void> => {
    const now = rule.replace("-A KVMNATD-DNAT", "-R KVMNATD-DNAT 1").replace(WEB.address, address);
    const cut = "conntrack -D -p udp --orig-port-dst 5353 || conntrack -D -p udp --orig-port-src 5353";
    await world.lab.exec(["sh", "-c", `iptables -t nat ${now} && { ${cut}; }`], { check: false });
  };
  const isWithWeb = async (): Promise<boolean> => {
    await pause(300);
    return last(client) === `web 5353 ${CLIENT}`;
  };
  await until("a late reply has begun an entry that the client is in", async () => {
    await lead(WEB.address);
    if (!(await isWithWeb())) return false;
    await lead(DB.address);
    return isWithWeb();
  });
  await world.start();
  await expect.poll(() => last(client), SOON).toBe(`db 5353 ${CLIENT}`);
});

it.each([
  ["the daemon", "run"],
  ["`apply`", "apply"],
])("a download is over when its client is no longer allowed: %s", async (_who, command) => {
  const apply = async (): Promise<void> => {
    const { exitCode } = await world.lab.kvmnatd([
      "apply",
      "-c",
      world.config,
      "--dnsmasq-dir",
      world.dnsmasqDir,
    ]);
    expect(exitCode).toBe(0);
  };
  await world.configure("guests: {web: {ports: [8080:8080]}}\n");
  await world.serve("web", "web", ["stream:8080"]);
  if (command === "run") await world.start();
  else await apply();
  await expect.poll(() => world.rules("nat"), SOON).toMatch(/--dport 8080 /);
  const client = world.load("client", HOST, 8080);
  await client.waitForLine(/^more$/);
  await world.configure(`guests: {web: {ports: [8080:8080], allow: [${CLIENT_SECOND}]}}\n`);
  if (command === "apply") await apply();
  await expect.poll(comesNoMore, SOON).toBe(true);

  async function comesNoMore(): Promise<boolean> {
    const { length } = client.lines;
    await pause(500);
    return !client.lines.slice(length).includes("more");
  }
});

it("what the host asks others from a published port goes on", async () => {
  await world.configure("guests: {web: {ports: [5353:53/udp]}}\n");
  await world.serve("host", "host", ["udp:5353"]);
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`host 5353 ${CLIENT}`);
  await world.serve("client", "client", ["udp:5353"]);
  await world.lab.exec(["sh", "-ec", OUTGOING]);
  await world.start();
  await expect.poll(() => last(client), SOON).toBe(`web 53 ${CLIENT}`);
  await world.settles();
  expect((await world.lab.exec(["conntrack", "-L", "-p", "udp"])).stdout).toMatch(
    `src=${HOST} dst=${CLIENT} sport=5353 dport=7777`,
  );
});

/** A flow from the published port to the same client, but another port of theirs. */
const OUTGOING = `conntrack -I -p udp -s ${HOST} -d ${CLIENT} --sport 5353 --dport 7777 -t 120`;
