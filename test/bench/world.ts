import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { writeConfig } from "../support/lab.ts";
import type { Lab } from "../support/lab.ts";

/** The guest that moves; all others stay where they are. */
export const MOVER = { name: "mover", mac: "52:54:00:00:00:01", published: 1122, target: 22 };
/** Maximum number of guests beside the mover. */
const MAX_GUESTS = 120;
const MIN_PORTS_PER_GUEST = 9;
const BRIDGE = "virbr0";
const EXPIRY_S = 3600;

/** A bridge with its lease file and a config, without libvirt: only kvmnatd is to be measured. */
export interface World {
  readonly config: string;
  readonly leaseFolder: string;
  /**
   * Writes a lease file, flushes it and renames it into place, as libvirt's helper does, that gives the mover this address.
   * Returns when (performance.now) it did so.
   */
  move(address: string): Promise<number>;
}

/** @param forwards their number: one of the mover, the others shared by at most 120 guests */
export async function createWorld(lab: Lab, forwards: number): Promise<World> {
  // The lab sees the same folder: this process renames, so that no other program's start is measured.
  const leaseFolder = join(lab.dir, `leases-${forwards}`);
  await mkdir(leaseFolder);
  const portsPerGuest = Math.max(MIN_PORTS_PER_GUEST, Math.ceil((forwards - 1) / MAX_GUESTS));
  const others = Array.from({ length: Math.ceil((forwards - 1) / portsPerGuest) }, (_, index) => ({
    name: `guest${index}`,
    mac: `52:54:00:00:01:${index.toString(16).padStart(2, "0")}`,
    address: `192.168.122.${index + 100}`,
  }));
  const guests = [
    `  ${MOVER.name}: {mac: "${MOVER.mac}", ports: ["${MOVER.published}:${MOVER.target}"]}`,
    ...others.map(({ name, mac }, index) => {
      const first = 20_000 + index * portsPerGuest;
      const ports = Array.from({ length: portsPerGuest }, (__, port) => `"${first + port}:${8000 + port}"`);
      return `  ${name}: {mac: "${mac}", ports: [${ports.join(", ")}]}`;
    }),
  ];
  const config = await writeConfig(lab, `guests:\n${guests.join("\n")}\n`);
  const file = join(leaseFolder, `${BRIDGE}.status`);
  return {
    config,
    leaseFolder,
    move: async (address) => {
      const rows = [{ mac: MOVER.mac, address }, ...others].map((guest) => ({
        "ip-address": guest.address,
        "mac-address": guest.mac,
        "expiry-time": Math.floor(Date.now() / 1000) + EXPIRY_S,
      }));
      await writeFile(`${file}.new`, JSON.stringify(rows, undefined, 2), { flush: true });
      const at = performance.now();
      await rename(`${file}.new`, file);
      return at;
    },
  };
}

export async function createBridge(lab: Lab): Promise<void> {
  await lab.exec(["ip", "link", "add", BRIDGE, "type", "bridge"]);
  await lab.exec(["ip", "address", "add", "192.168.122.1/24", "dev", BRIDGE]);
  await lab.exec(["ip", "link", "set", BRIDGE, "up"]);
}
