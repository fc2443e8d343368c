import { performance } from "node:perf_hooks";
import { setTimeout as pause } from "node:timers/promises";
import { createLab, startDaemon, until } from "../support/lab.ts";
import type { Lab } from "../support/lab.ts";
import { printTimes, say } from "./figures.ts";
import { startMonitor } from "./monitor.ts";
import type { Monitor } from "./monitor.ts";
import { createBridge, createWorld, MOVER } from "./world.ts";

/*
 * How long a rule of ours is missing after somebody took it away, as `nft monitor` reports both; and what a busy
 * neighbour costs. Prints, asserts nothing.
 */
const REPEATS = 40;
const REST_MS = 600;
const START_MS = 2000;
/** A guest that does not answer, as the bench's, is asked again and again at first. */
const CALM_MS = 60_000;
const BUSY_S = 30;
/** Until what takes more than it should listens by turns. */
const ADAPT_MS = 7000;

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
    say("somebody's tampering -> repaired");
    for (const tampering of TAMPERINGS) {
      // A daemon of its own for each: 60 repairs within a minute are a fight, which it does not hurry to win.
      const daemon = await startDaemon(lab, options);
      await pause(START_MS);
      printTimes(tampering.what, await measureHealing(lab, monitor, tampering));
      await daemon.stop();
    }
    await startDaemon(lab, options);
    await pause(CALM_MS);
    say("\nprocessor time while a neighbour is busy, of all that kvmnatd has started");
    const daemon = await pidOf(lab, "-f", "kvmnatd.js run");
    const pids = [
      daemon,
      await pidOf(lab, "-P", `${daemon}`, "-x", "nft"),
      await pidOf(lab, "-P", `${daemon}`, "-x", "ip"),
      await pidOf(lab, "-P", `${daemon}`, "-x", "sh"),
    ];
    say(`  nobody is                         ${await measureLoad(lab, pids, "sleep 600")}`);
    say(`  a set updated 1,000 times/s       ${await measureLoad(lab, pids, SET_UPDATES)}`);
    say(`  a container comes and goes each s ${await measureLoad(lab, pids, CONTAINERS)}`);
    say(`  an address is blocked each second ${await measureLoad(lab, pids, BLOCKLIST)}`);
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

const SET_UPDATES = `
nft add table inet busy; nft add set inet busy s '{ type ipv4_addr; }'
i=0; while :; do
  j=0; while [ $j -lt 100 ]; do echo "add element inet busy s { 10.$((i / 250 % 250)).$((i % 250)).$j }"; j=$((j + 1)); done
  i=$((i + 1)); sleep 0.1
done | nft -i >/dev/null 2>&1`;

/** What Docker 28 does when a container with a published port starts and ends, each rule a transaction of its own. */
const CONTAINERS = `
iptables -N DOCKER; iptables -t nat -N DOCKER
while :; do
  iptables -t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
  iptables -t nat -A POSTROUTING -s 172.17.0.2 -d 172.17.0.2 -p tcp --dport 80 -j MASQUERADE
  iptables -A DOCKER -d 172.17.0.2 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT
  iptables -t raw -A PREROUTING -d 172.17.0.2 ! -i docker0 -j DROP
  sleep 1
  iptables -t raw -D PREROUTING -d 172.17.0.2 ! -i docker0 -j DROP
  iptables -D DOCKER -d 172.17.0.2 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT
  iptables -t nat -D POSTROUTING -s 172.17.0.2 -d 172.17.0.2 -p tcp --dport 80 -j MASQUERADE
  iptables -t nat -D DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
done`;

/** Of the kind that may be in our way, so that it has to be looked at. */
const BLOCKLIST = `
while :; do
  iptables -I FORWARD -s 192.0.2.1 -j DROP; sleep 1; iptables -D FORWARD -s 192.0.2.1 -j DROP
done`;

/** Percent of one core. */
async function measureLoad(lab: Lab, pids: readonly number[], neighbour: string): Promise<string> {
  // In a session of its own: what it has started ends with it.
  const busy = lab.spawn(["setsid", "sh", "-c", `trap "kill 0" TERM; { ${neighbour}\n} & wait`]);
  await pause(ADAPT_MS);
  const [before, start] = [await ticks(lab, pids), performance.now()];
  await pause(BUSY_S * 1000);
  const [after, end] = [await ticks(lab, pids), performance.now()];
  await busy.kill("SIGTERM");
  await busy.exited;
  return `${(((after - before) * 10 * 100) / (end - start)).toFixed(1)} % of a core`;
}

/** Processor time in 1/100 s, ended children's included. */
async function ticks(lab: Lab, pids: readonly number[]): Promise<number> {
  let sum = 0;
  for (const pid of pids) {
    const { stdout } = await lab.exec(["cat", `/proc/${pid}/stat`]);
    const fields = stdout.slice(stdout.lastIndexOf(")") + 2).split(" ");
    sum += fields.slice(11, 15).reduce((total, field) => total + Number(field), 0);
  }
  return sum;
}

async function pidOf(lab: Lab, ...options: readonly string[]): Promise<number> {
  return until(`a process ${options.join(" ")}`, async () => {
    const { stdout } = await lab.exec(["pgrep", "-o", ...options], { check: false });
    return Number(stdout) || undefined;
  });
}

await main();
