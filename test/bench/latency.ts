import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { setTimeout as pause } from "node:timers/promises";
import { createLab, PROGRAM, startDaemon, until } from "../support/lab.ts";
import type { Daemon, Lab } from "../support/lab.ts";
import { printTimes, quantile, say } from "./figures.ts";
import { createFloor } from "./floor.ts";
import { startMonitor } from "./monitor.ts";
import type { Monitor } from "./monitor.ts";
import { createBridge, createWorld, MOVER } from "./world.ts";
import type { World } from "./world.ts";

/*
 * How long a client is sent to the wrong place: from the rename of a lease file to the new rule in the kernel, as
 * `nft monitor` reports it. Prints, asserts nothing. Method's error: the event is read up to 1 ms after the commit,
 * measured against the end of an iptables that makes one rule (first line).
 */
const MOVES = 60;
const STARTS = 5;
/** The daemon looks a second time 150 ms after a file's change: a move is measured from rest. */
const REST_MS = 300;

/** Nothing looks twice here; this is for the processes to end. */
const FLOOR_REST_MS = 50;

async function main(): Promise<void> {
  const lab = await createLab();
  try {
    await createBridge(lab);
    const monitor = startMonitor(lab);
    await calibrate(lab, monitor);
    for (const forwards of [1, 1000]) await measure(lab, monitor, forwards);
  } finally {
    await lab.close();
  }
}

/** The monitor's event against the moment in which the program that made the rule has ended. */
async function calibrate(lab: Lab, monitor: Monitor): Promise<void> {
  await lab.exec(["iptables", "-N", "CALIBRATE"]);
  const late: number[] = [];
  for (let port = 1; port <= 20; port++) {
    const seen = monitor.seen(`tcp dport ${port} `);
    await lab.exec(["iptables", "-A", "CALIBRATE", "-p", "tcp", "--dport", `${port}`]);
    const ended = performance.now();
    late.push((await seen) - ended);
  }
  await lab.exec(["iptables", "-F", "CALIBRATE"]);
  await lab.exec(["iptables", "-X", "CALIBRATE"]);
  printTimes("event after iptables' end", late);
}

async function measure(lab: Lab, monitor: Monitor, forwards: number): Promise<void> {
  say(`\n${forwards} forward${forwards === 1 ? "" : "s"}`);
  const world = await createWorld(lab, forwards);
  const bench: Bench = {
    lab,
    monitor,
    world,
    options: ["-c", world.config, "--dnsmasq-dir", world.leaseFolder],
    nodeOptions: await readNodeOptions(),
    moves: 0,
  };
  printTimes("start -> rules in place", await measureStarts(bench));
  const daemon = await startShipped(bench);
  await pause(REST_MS);
  const memory = [await residentMb(bench)];
  const follow = await measureMoves(bench);
  memory.push(await residentMb(bench));
  await daemon.stop();
  const floor = await measureFloor(bench);
  printTimes("lease renamed -> rule in place", follow);
  printTimes("floor: iptables-save, -restore", floor);
  const ratio = (share: number): string => (quantile(follow, share) / quantile(floor, share)).toFixed(1);
  say(`  ratio                            p50 ${ratio(0.5)}  p99 ${ratio(0.99)}`);
  say(`  VmRSS ${memory[0]} MB at rest after start, ${memory[1]} MB after ${MOVES} moves`);
  await lab.kvmnatd(["teardown", ...bench.options]);
}

interface Bench {
  readonly lab: Lab;
  readonly monitor: Monitor;
  readonly world: World;
  readonly options: readonly string[];
  readonly nodeOptions: string;
  /** Each move goes to another address than the one before. */
  moves: number;
}

/** As its users start it: options of the program's first line decide half of its memory. */
async function startShipped({ lab, options, nodeOptions }: Bench): Promise<Daemon> {
  return startDaemon(lab, options, { NODE_OPTIONS: nodeOptions });
}

/** Node's own options in the first line of the built program. */
async function readNodeOptions(): Promise<string> {
  const [firstLine = ""] = (await readFile(PROGRAM, "utf8")).split("\n", 1);
  return /\bnode (-.*)$/.exec(firstLine)?.[1] ?? "";
}

function nextAddress(bench: Bench): string {
  bench.moves += 1;
  return `192.168.122.${10 + (bench.moves % 80)}`;
}

/** From the start of the process, node included, with no rules in the kernel. */
async function measureStarts(bench: Bench): Promise<readonly number[]> {
  const { lab, monitor, world, options } = bench;
  const samples: number[] = [];
  for (let run = 0; run < STARTS; run++) {
    await lab.kvmnatd(["teardown", ...options]);
    const address = nextAddress(bench);
    await world.move(address);
    const seen = monitor.seen(`${address}:${MOVER.target}`);
    const start = performance.now();
    const daemon = await startShipped(bench);
    samples.push((await seen) - start);
    await daemon.stop();
  }
  return samples;
}

async function measureMoves(bench: Bench): Promise<readonly number[]> {
  const samples: number[] = [];
  while (samples.length < MOVES) {
    const address = nextAddress(bench);
    const seen = bench.monitor.seen(`${address}:${MOVER.target}`);
    const renamed = await bench.world.move(address);
    samples.push((await seen) - renamed);
    await pause(REST_MS);
  }
  return samples;
}

async function measureFloor(bench: Bench): Promise<readonly number[]> {
  const floor = await createFloor(bench.lab, bench.monitor);
  const samples: number[] = [];
  while (samples.length < MOVES) {
    samples.push(await floor.move(nextAddress(bench)));
    await pause(FLOOR_REST_MS);
  }
  floor.close();
  return samples;
}

/** Of the daemon's memory, in MB. */
async function residentMb({ lab }: Bench): Promise<number> {
  const kilobytes = await until("the daemon that runs has written its status", async () => {
    const text = await readFile(join(lab.dir, "run", "status.json"), "utf8");
    const { pid } = JSON.parse(text) as { readonly pid: number };
    const { stdout } = await lab.exec(["cat", `/proc/${pid}/status`], { check: false });
    return /VmRSS:\s*(\d+) kB/.exec(stdout)?.[1];
  });
  return Math.round(Number(kilobytes) / 1024);
}

await main();
