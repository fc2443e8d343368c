import { setTimeout as pause } from "node:timers/promises";
import { afterEach, beforeEach, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { until } from "../../support/lab.ts";
import type { LabProcess } from "../../support/lab.ts";
import { CLIENT, CLIENT_SECOND, DB, HOST, leaseRow, WEB } from "../../support/world.ts";

/**
 * A reply that is under way when its connection is removed creates an entry of its own, in the other direction. The
 * client's packets match that entry and would keep reaching the wrong server. The servers here answer late and often.
 */
const SOON = { timeout: 120_000 };
/**
 * Each check removes the entry once, and a server that answers as often as these may create it again at once. kvmnatd
 * checks again after 1, 4 and 15 s, and every 15 s up to a minute: in one of them a packet of the client comes first.
 */
const AFTER_CHECKS = { timeout: 350_000 };
let world: DaemonWorld;

beforeEach(async () => {
  world = await createDaemonWorld("nft", "linger: 300ms\n");
});
afterEach(() => world.close());

const last = (client: LabProcess): string | undefined => client.lines.at(-1);

it("moves a UDP client to the guest while the host itself still answers it", async () => {
  await world.configure("guests: {web: {ports: [5353:53/udp]}}\n");
  await world.serve("host", "host", ["late:5353"]);
  const client = world.send("client", HOST, 5353);
  await expect.poll(() => last(client), SOON).toBe(`host 5353 ${CLIENT}`);
  await world.start();
  await expect.poll(() => last(client), AFTER_CHECKS).toBe(`web 53 ${CLIENT}`);
});

it("moves a UDP client to the guest's new address while the previous guest still answers it", async () => {
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
  await expect.poll(() => last(client), AFTER_CHECKS).toBe(`db 5353 ${CLIENT}`);
});

it("removes the late reply's entry after the daemon was killed between removal and reply", async () => {
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
  /** What the daemon did before it was killed. */
  const lead = async (address: string): Promise<void> => {
    const now = rule.replace("-A KVMNATD-DNAT", "-R KVMNATD-DNAT 1").replace(WEB.address, address);
    // Both directions: as long as either entry is left, the client stays where it leads.
    const cut = "conntrack -D -p udp --orig-port-dst 5353; conntrack -D -p udp --orig-port-src 5353";
    await world.lab.exec(["sh", "-c", `iptables -t nat ${now} && { ${cut}; }`], { check: false });
  };
  const isWithWeb = async (): Promise<boolean> => {
    await pause(300);
    const { length } = client.lines;
    const answers = (): readonly string[] => client.lines.slice(length);
    await until("the client gets answers", () => answers().length >= 5);
    return answers().every((answer) => answer === `web 5353 ${CLIENT}`);
  };
  await until("a late reply has created an entry that the client's packets match", async () => {
    await lead(WEB.address);
    if (!(await isWithWeb())) return false;
    await lead(DB.address);
    return isWithWeb();
  });
  await world.start();
  await expect.poll(() => last(client), AFTER_CHECKS).toBe(`db 5353 ${CLIENT}`);
});

it.each([
  ["the daemon", "run"],
  ["`apply`", "apply"],
])("ends a download when its client is no longer admitted: %s", async (_who, command) => {
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
  await expect.poll(isConnected, SOON).toBe(false);
  await expect.poll(comesNoMore, SOON).toBe(true);

  /** A client that gets no processor time gets nothing either: the kernel has the connection until it is removed. */
  async function isConnected(): Promise<boolean> {
    const list = ["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED"];
    return (await world.lab.exec(list)).stdout.includes(WEB.address);
  }

  async function comesNoMore(): Promise<boolean> {
    const { length } = client.lines;
    await pause(500);
    return !client.lines.slice(length).includes("more");
  }
});

it("keeps a connection that the host began from a published port", async () => {
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

/** A connection from the published port to another port of the same client. */
const OUTGOING = `conntrack -I -p udp -s ${HOST} -d ${CLIENT} --sport 5353 --dport 7777 -t 120`;
