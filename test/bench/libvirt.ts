import { performance } from "node:perf_hooks";
import { resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { until } from "../support/lab.ts";
import { createGuest, createStage, HOST_ADDRESS } from "../support/libvirt.ts";
import type { Backend, LabGuest, Libvirt, Stage } from "../support/libvirt.ts";
import { printTimes, say } from "./figures.ts";

/*
 * How long clients are without a guest's port when libvirt rewrites its rules, or somebody flushes them, with the real
 * libvirt and either of its backends: from the first attempt to connect that fails to the first that does not again.
 * Prints, asserts nothing.
 */
const REPEATS = Number(process.argv[2] ?? 8);
const PEER = resolve(import.meta.dirname, "../support/peer.ts");
const KNOCK_EVERY_MS = 5;
const REST_MS = 700;
const PORT = 1122;

interface Event {
  readonly what: string;
  run(stage: Stage, guest: LabGuest): Promise<unknown>;
}

const sh = (libvirt: Libvirt, script: string): Promise<unknown> => libvirt.lab.exec(["sh", "-ec", script]);

const EVENTS: readonly Event[] = [
  { what: "SIGHUP", run: ({ libvirt }) => libvirt.reload() },
  { what: "net-update", run: ({ libvirt }) => libvirt.reserve(...nextReservation()) },
  { what: "restart of libvirtd", run: ({ libvirt }) => libvirt.restart() },
  {
    what: "iptables -F FORWARD, restart",
    run: async ({ libvirt }) => {
      await sh(libvirt, "iptables -F FORWARD");
      await libvirt.restart();
    },
  },
  {
    what: "nft flush ruleset, restart",
    run: async ({ libvirt }) => {
      await sh(libvirt, "nft flush ruleset");
      await libvirt.restart();
    },
  },
  {
    what: "net-destroy, net-start",
    run: async ({ libvirt }, guest) => {
      await libvirt.stopNetwork();
      await libvirt.startNetwork();
      await guest.powerOn();
    },
  },
];

/** As before libvirt's first network: its jumps go to the head. */
const FIRST_START: Event = {
  what: "a first net-start",
  run: async ({ libvirt }, guest) => {
    await libvirt.stopNetwork();
    await sh(libvirt, "iptables -F FORWARD");
    await libvirt.startNetwork();
    await guest.powerOn();
  },
};

function createSwitch(): Event {
  let next: Backend = "iptables";
  return {
    what: "switch of the backend, or back",
    run: async ({ libvirt }) => {
      await libvirt.setBackend(next);
      next = next === "iptables" ? "nftables" : "iptables";
      await libvirt.restart();
    },
  };
}

let reserved = 0;
function nextReservation(): [mac: string, address: string] {
  reserved += 1;
  return [`52:54:00:77:00:${String(reserved).padStart(2, "0")}`, `192.168.122.${200 + (reserved % 50)}`];
}

async function measure(backend: "nftables" | undefined): Promise<void> {
  const stage = await createStage(
    `guests:\n  devstack: {ports: [${PORT}:22]}\n`,
    backend === undefined ? {} : { backend },
  );
  const { libvirt } = stage;
  try {
    await libvirt.start();
    await libvirt.startNetwork();
    const guest = await createGuest(libvirt, "devstack", "52:54:00:6c:3c:01");
    await guest.serve(22);
    await guest.powerOn();
    await guest.takeLease();
    await stage.startDaemon();
    await stage.becomes("active");
    say(`\nlibvirt with ${backend ?? "iptables"}: clients are without the port for`);
    for (const event of [...EVENTS, backend === undefined ? FIRST_START : createSwitch()]) {
      const gaps: number[] = [];
      while (gaps.length < REPEATS) {
        // One that has put its jump first three times within a minute lets the other win for a while.
        await stage.stopDaemon();
        await stage.startDaemon();
        await stage.rests();
        gaps.push(await longestGap(stage, guest, event));
      }
      printTimes(event.what, gaps);
    }
  } finally {
    await stage.close();
  }
}

/** The longest time in which no connection came about, in ms; 0 where each of them did. */
async function longestGap(stage: Stage, guest: LabGuest, event: Event): Promise<number> {
  const client = stage.libvirt.lab.spawn([process.execPath, PEER, "probe"], { netns: "client" });
  let asked = 0;
  let gap = 0;
  let failingSince: number | undefined;
  const knock = async (): Promise<boolean> => {
    const startedAt = performance.now();
    client.stdin.write(`${HOST_ADDRESS} ${PORT} 10.99.0.2\n`);
    const answer = await until("the client has an answer", () => client.lines[asked]);
    asked += 1;
    const isThere = answer.startsWith("devstack");
    if (!isThere) failingSince ??= startedAt;
    else if (failingSince !== undefined) {
      gap = Math.max(gap, performance.now() - failingSince);
      failingSince = undefined;
    }
    return isThere;
  };
  await until("the port answers", knock);
  let isOver = false;
  const running = event.run(stage, guest).finally(() => (isOver = true));
  for (
    let calmSince = performance.now();
    performance.now() - calmSince < REST_MS;
    await pause(KNOCK_EVERY_MS)
  )
    if (!(await knock()) || !isOver) calmSince = performance.now();
  await running;
  await client.kill("SIGKILL");
  return gap;
}

await measure(undefined);
await measure("nftables");
