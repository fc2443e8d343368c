import { afterAll, expect, it } from "vitest";
import type { DaemonStatus } from "../../src/status/status.ts";
import { createDaemonWorld } from "./daemon-world.ts";
import type { DaemonWorld } from "./daemon-world.ts";
import { readStatusFile, until } from "./lab.ts";
import { createRandom } from "./random.ts";
import { createWalk, expectedAnswer, isActive, PORTS, readForeign } from "./walk.ts";
import type { Walk } from "./walk.ts";
import { CLIENT, CLIENT_SECOND, HOST } from "./world.ts";

/** Number of walks, a file each, so that they run at the same time. */
const WALKS = 4;
/** KVMNATD_WALK_SEED replays a walk in the first file; the next files take the next seeds. */
const SEED = Number(process.env["KVMNATD_WALK_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
/** Of all walks together. */
const STEPS = Number(process.env["KVMNATD_WALK_STEPS"] ?? 2000);
const STEPS_TO_QUIET = 25;
const QUIETS_TO_FRESH_START = 4;
type Knock = (host: string, port: number, source: string) => Promise<string>;
let world: DaemonWorld;

/** Defines the test of one walk. @param number of the walk, from 1 */
export function testWalk(number: number): void {
  const seed = SEED + number - 1;
  const steps = Math.ceil(STEPS / WALKS);
  afterAll(() => world.close());

  it(
    `keeps the kernel as config and leases say after any sequence of events (seed ${seed})`,
    { timeout: 3_600_000 },
    async () => {
      world = await createDaemonWorld("nft", "linger: 200ms\n");
      const walk = await createWalk(world, createRandom(seed));
      const path: string[] = [];
      try {
        await takeSteps(walk, steps, path);
      } catch (error) {
        throw new Error(describeWalk(seed, path), { cause: error });
      }
      expect(path).toHaveLength(steps);
    },
  );
}

async function takeSteps(walk: Walk, steps: number, path: string[]): Promise<void> {
  const knock = world.prober("client");
  for (let step = 1; step <= steps; step += 1) {
    path.push(await walk.step());
    if (step % STEPS_TO_QUIET !== 0) continue;
    await walk.calm();
    await agrees(walk, knock);
    if (step % (STEPS_TO_QUIET * QUIETS_TO_FRESH_START) === 0) await equalsFreshStart(walk);
  }
}

function describeWalk(seed: number, path: readonly string[]): string {
  const log = world.log().slice(-40);
  const last = path.slice(-STEPS_TO_QUIET - 5);
  return [`seed ${seed}, after step ${path.length}: ${last.join("; ")}`, ...log.map(({ msg }) => msg)].join(
    "\n",
  );
}

/** Packets first: they are what it is all for. */
async function agrees(walk: Walk, knock: Knock): Promise<void> {
  const { model } = walk;
  const asked = PORTS.flatMap((port) => [CLIENT, CLIENT_SECOND].map((client) => ({ port, client })));
  const wanted = asked.map(({ port, client }) => tell(port, client, expectedAnswer(model, port, client)));
  let seen: readonly string[] = [];
  await until(
    () => `packets go where the model says: ${JSON.stringify({ wanted, seen }, undefined, 1)}`,
    async () => {
      seen = await Promise.all(
        asked.map(async ({ port, client }) => tell(port, client, await knock(HOST, port, client))),
      );
      return JSON.stringify(seen) === JSON.stringify(wanted);
    },
  );
  let plan = "";
  await until(
    () => `nothing is left to do: ${plan}`,
    async () => {
      const { stdout, exitCode } = await kvmnatd("plan");
      plan = stdout;
      return exitCode === 0;
    },
  );
  await until("the status file says the same", async () => hasStates(walk, await readStatusFile(world.lab)));
  expect(await readForeign(world)).toBe(await walk.foreign());
}

function hasStates({ model }: Walk, status: DaemonStatus | undefined): boolean {
  return (
    status?.forwards.length === model.ports.size &&
    status.forwards.every(({ guest, state }) => (state === "active") === isActive(model, guest))
  );
}

const tell = (port: number, client: string, answer: string): string => `${client} -> ${port}: ${answer}`;

/** Our chains, whole, and our jumps, wherever they stand. */
async function ownRules(): Promise<string> {
  const lines = `${await world.rules("filter")}${await world.rules("nat")}`.split("\n");
  const chains = lines.filter((line) => line.startsWith("-A KVMNATD-"));
  const jumps = lines.filter((line) => line.startsWith("-A") && line.includes('"kvmnatd:@jump"'));
  const inLibvirts = await world.lab.exec(["nft", "--stateless", "list", "table", "ip", "libvirt_network"], {
    check: false,
  });
  const native = /^\tchain kvmnatd \{$[^}]*/m.exec(inLibvirts.stdout)?.[0] ?? "";
  const jump = inLibvirts.stdout.split("\n").filter((line) => line.includes('"kvmnatd:@jump"'));
  return [...chains, ...jumps.toSorted(), native, ...jump].join("\n").trim();
}

async function equalsFreshStart(walk: Walk): Promise<void> {
  await until("`kvmnatd status` says the same", async () => hasStates(walk, await world.shownStatus()));
  const grown = await ownRules();
  await walk.daemon().kill("SIGSTOP");
  await kvmnatd("teardown");
  expect(await ownRules()).toBe("");
  expect(await readForeign(world)).toBe(await walk.foreign());
  await kvmnatd("apply");
  expect(await ownRules()).toBe(grown);
  await walk.daemon().kill("SIGCONT");
}

function kvmnatd(command: string): ReturnType<DaemonWorld["lab"]["kvmnatd"]> {
  return world.lab.kvmnatd([command, "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
}
