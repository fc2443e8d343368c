import { resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterEach, beforeEach, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { DB, leaseRow, WEB } from "../../support/world.ts";

/** Answers ARP for an address later than a pass waits. */
const LATE_ARP = resolve(import.meta.dirname, "../../support/late-arp.py");
const MOVED = "192.168.122.50";
const LATE_MS = 12;
let world: DaemonWorld;
beforeEach(async () => {
  world = await createDaemonWorld();
  await world.start();
  await world.isWell();
});
afterEach(() => world.close());

/** The rules to the address that the daemon has added since this line of its log, also between two looks at the kernel. */
const addedSince = (line: number): readonly unknown[] =>
  world
    .log()
    .slice(line)
    .filter(({ action, rule }) => action === "add" && rule?.includes(`${MOVED}:`));

/** The guest has the new address, not web's old one, and answers for it late, with its own MAC. */
async function answersLate(guest: "web" | "db", mac: string): Promise<void> {
  const script = `
ip -n web address del ${WEB.address}/24 dev eth0
ip -n ${guest} address add ${MOVED}/24 dev eth0
ip -n ${guest} route replace default via 192.168.122.1
ip -n ${guest} neigh replace 192.168.122.1 lladdr $(cat /sys/class/net/virbr0/address) dev eth0 nud permanent
ip netns exec ${guest} sysctl -qw net.ipv4.conf.eth0.arp_ignore=8`;
  await world.lab.exec(["sh", "-ec", script]);
  const argv = ["python3", LATE_ARP, "eth0", MOVED, mac, `${LATE_MS}`];
  await world.lab.spawn(argv, { netns: guest }).waitForLine(/^up$/);
}

it("ends the forward soon when another MAC answers late at the address of a silent guest", async () => {
  await answersLate("db", DB.mac);
  await world.forgeLeases("virbr0", [leaseRow({ mac: WEB.mac, address: MOVED }), leaseRow(DB)]);
  await world.becomes("web", "pending", /but 52:54:00:6c:3c:02 answers there/);
  await world.reload();
  const from = world.log().length;
  // It is late each time, and the answer to one probe can arrive after the next.
  for (let look = 0; look < 60; look += 1) {
    await world.forgeLeases("virbr0", [leaseRow({ mac: WEB.mac, address: MOVED }), leaseRow(DB)]);
    await setTimeout(look);
    await world.reload();
    expect(await world.rules("nat")).not.toContain(MOVED);
  }
  expect(addedSince(from)).toEqual([]);
});

it("does not take the entry that dnsmasq writes for a forged request for an answer", async () => {
  const expiry = Math.floor(Date.now() / 1000) + 3600;
  const forge = async (later: number): Promise<void> =>
    world.forgeLeases("virbr0", [
      leaseRow({ mac: WEB.mac, address: MOVED }, { "expiry-time": expiry + later }),
      leaseRow(WEB, { "expiry-time": expiry }),
      leaseRow(DB),
    ]);
  for (let look = 1; look < 15; look += 1) {
    await forge(look);
    await world.lab.exec(["python3", "-c", INJECT, MOVED, WEB.mac, "virbr0"]);
    await setTimeout(look * 5);
    await world.reload();
    expect(await world.rules("nat")).not.toContain(MOVED);
  }
  expect(addedSince(0)).toEqual([]);
  expect(await world.rules("nat")).toContain(`--to-destination ${WEB.address}:22`);
});

/** dnsmasq does this before it sends its answer (SIOCSARP with ATF_COM, in dhcp.c). */
const INJECT = `
import fcntl, socket, struct, sys
address, mac, link = sys.argv[1:]
row = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
row += struct.pack("H14s", 1, bytes.fromhex(mac.replace(":", "")))
row += struct.pack("i16s16s", 2, bytes(16), link.encode())
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8955, row)
`;

it("follows a guest that answers late at its new address, though its old lease is live", async () => {
  await answersLate("web", WEB.mac);
  const expiry = Math.floor(Date.now() / 1000) + 3600;
  await world.forgeLeases("virbr0", [
    leaseRow({ mac: WEB.mac, address: MOVED }, { "expiry-time": expiry + 100 }),
    leaseRow(WEB, { "expiry-time": expiry }),
    leaseRow(DB),
  ]);
  await expect.poll(() => world.rules("nat"), { timeout: 120_000 }).toContain(`--to-destination ${MOVED}:22`);
});
