import { performance } from "node:perf_hooks";
import { setTimeout as pause } from "node:timers/promises";
import { createLab, startDaemon, until } from "../support/lab.ts";
import type { Lab } from "../support/lab.ts";
import { say } from "./figures.ts";
import { createBridge, createWorld } from "./world.ts";

/*
 * Processor time of kvmnatd and of all programs that it has started while another program changes the ruleset.
 * `load.ts [FORWARDS...]`. Prints, asserts nothing.
 */
const SIZES = process.argv.length > 2 ? process.argv.slice(2).map(Number) : [100, 5000];
/** Time until the guests of the bench, which answer no probe, are probed rarely. */
const CALM_MS = 60_000;
const BUSY_S = 30;
/** Time from the start of the other program until the measurement begins. */
const WARM_UP_MS = 3000;

async function main(): Promise<void> {
  for (const forwards of SIZES) {
    const lab = await createLab();
    try {
      await measure(lab, forwards);
    } finally {
      await lab.close();
    }
  }
}

async function measure(lab: Lab, forwards: number): Promise<void> {
  await createBridge(lab);
  const world = await createWorld(lab, forwards);
  await world.move("192.168.122.10");
  await startDaemon(lab, ["-c", world.config, "--dnsmasq-dir", world.leaseFolder]);
  await pause(CALM_MS);
  const daemon = await pidOf(lab, "-f", "kvmnatd.js run");
  const children = ["nft", "ip", "sh"].map((name) => pidOf(lab, "-P", `${daemon}`, "-x", name));
  const pids = [daemon, ...(await Promise.all(children))];
  say(
    `\n${forwards} forwards: processor time of kvmnatd, in % of a core: all, the daemon itself, nft, ip, sh`,
  );
  for (const [name, script] of NEIGHBOURS)
    say(`  ${name.padEnd(36)} ${await measureLoad(lab, pids, script)}`);
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

/** Rules that may reject packets of the forwards, so that kvmnatd has to read the table. */
const BLOCKLIST = `
while :; do
  iptables -I FORWARD -s 192.0.2.1 -j DROP; sleep 1; iptables -D FORWARD -s 192.0.2.1 -j DROP
done`;

const NEIGHBOURS: readonly (readonly [name: string, script: string])[] = [
  ["no other program", "sleep 600"],
  ["a set is updated 1,000 times/s", SET_UPDATES],
  ["a container comes and goes every s", CONTAINERS],
  ["an address is blocked every second", BLOCKLIST],
];

/** @returns percent of one core: the sum, then each process with its ended children */
async function measureLoad(lab: Lab, pids: readonly number[], neighbour: string): Promise<string> {
  // In a session of its own: what it has started ends with it.
  const busy = lab.spawn(["setsid", "sh", "-c", `trap "kill 0" TERM; { ${neighbour}\n} & wait`]);
  await pause(WARM_UP_MS);
  const [before, start] = [await readTicks(lab, pids), performance.now()];
  await pause(BUSY_S * 1000);
  const [after, end] = [await readTicks(lab, pids), performance.now()];
  await busy.kill("SIGTERM");
  await busy.exited;
  const shares = after.map((ticks, index) => ((ticks - (before[index] ?? 0)) * 10 * 100) / (end - start));
  const sum = shares.reduce((total, share) => total + share, 0);
  return [sum, ...shares].map((share) => share.toFixed(1).padStart(5)).join(" ");
}

/** Processor time of each process in 1/100 s, including its ended children. */
async function readTicks(lab: Lab, pids: readonly number[]): Promise<readonly number[]> {
  const stats = await Promise.all(pids.map((pid) => lab.exec(["cat", `/proc/${pid}/stat`])));
  return stats.map(({ stdout }) => {
    const fields = stdout.slice(stdout.lastIndexOf(")") + 2).split(" ");
    return fields.slice(11, 15).reduce((total, field) => total + Number(field), 0);
  });
}

async function pidOf(lab: Lab, ...options: readonly string[]): Promise<number> {
  return until(`a process ${options.join(" ")}`, async () => {
    const { stdout } = await lab.exec(["pgrep", "-o", ...options], { check: false });
    return Number(stdout) || undefined;
  });
}

await main();
