import { setTimeout as pause } from "node:timers/promises";
import { createLab, startDaemon } from "../support/lab.ts";
import type { Lab } from "../support/lab.ts";
import { printTimes, say } from "./figures.ts";
import { startMonitor } from "./monitor.ts";
import type { Monitor } from "./monitor.ts";
import { createBridge, createWorld, MOVER } from "./world.ts";

/*
 * Time from the removal of a rule of kvmnatd by another program until kvmnatd has put it back. `nft monitor` reports
 * both. Prints, asserts nothing.
 */
const REPEATS = 40;
const REST_MS = 600;
const START_MS = 2000;

interface Tampering {
  readonly what: string;
  readonly command: string;
  /** Events of the tampering and of the last rule that is put back. */
  readonly gone: string;
  readonly back: string;
}

const TAMPERINGS: readonly Tampering[] = [
  {
    what: "iptables -t nat -F KVMNATD-DNAT",
    command: "iptables -t nat -F KVMNATD-DNAT",
    gone: "delete rule ip nat KVMNATD-DNAT",
    back: `dport ${MOVER.published}`,
  },
  {
    what: "iptables -F FORWARD",
    command: "iptables -F FORWARD",
    gone: "delete rule ip filter FORWARD",
    back: "jump KVMNATD-FWD",
  },
  {
    what: "iptables -F; -t nat -F",
    command: "iptables -F; iptables -t nat -F",
    gone: "delete rule ip nat",
    back: "add rule ip nat POSTROUTING",
  },
  {
    what: "nft flush ruleset",
    command: "nft flush ruleset",
    gone: "delete rule ip filter",
    back: "add rule ip nat POSTROUTING",
  },
];

async function main(): Promise<void> {
  const lab = await createLab();
  try {
    await createBridge(lab);
    const monitor = startMonitor(lab);
    const world = await createWorld(lab, 1);
    await world.move("192.168.122.10");
    const options = ["-c", world.config, "--dnsmasq-dir", world.leaseFolder];
    say("another program removes rules -> repaired");
    for (const tampering of TAMPERINGS) {
      // Each starts its own daemon: 60 repairs within a minute would meet the repair limit.
      const daemon = await startDaemon(lab, options);
      await pause(START_MS);
      printTimes(tampering.what, await measureHealing(lab, monitor, tampering));
      await daemon.stop();
    }
  } finally {
    await lab.close();
  }
}

async function measureHealing(
  lab: Lab,
  monitor: Monitor,
  { command, gone, back }: Tampering,
): Promise<readonly number[]> {
  const samples: number[] = [];
  while (samples.length < REPEATS) {
    const times = Promise.all([monitor.seen(gone), monitor.seen(back)]);
    await lab.exec(["sh", "-ec", command]);
    const [tampered, healed] = await times;
    samples.push(healed - tampered);
    await pause(REST_MS);
  }
  return samples;
}

await main();
