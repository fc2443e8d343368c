import { afterAll, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { until } from "../../support/lab.ts";
import { createRandom } from "../../support/random.ts";
import { createWalk, expectedAnswer, isActive, PORTS, readForeign } from "../../support/walk.ts";
import type { Walk } from "../../support/walk.ts";
import { CLIENT, CLIENT_SECOND, HOST } from "../../support/world.ts";

/** KVMNATD_WALK_SEED replays a walk, KVMNATD_WALK_STEPS makes it longer. */
const SEED = Number(process.env["KVMNATD_WALK_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const STEPS = Number(process.env["KVMNATD_WALK_STEPS"] ?? 2000);
const STEPS_TO_QUIET = 25;
const QUIETS_TO_FRESH_START = 4;
let world: DaemonWorld;

afterAll(() => world.close());

it(
  `after any sequence of events the kernel is what config and leases say (seed ${SEED})`,
  { timeout: 3_600_000 },
  async () => {
    world = await createDaemonWorld("nft", "linger: 200ms\n");
    const walk = await createWalk(world, createRandom(SEED));
    const knock = world.prober("client");
    const path: string[] = [];
    try {
      for (let step = 1; step <= STEPS; step += 1) {
        path.push(await walk.step());
        if (step % STEPS_TO_QUIET !== 0) continue;
        await walk.calm();
        await agrees(walk, knock);
        if (step % (STEPS_TO_QUIET * QUIETS_TO_FRESH_START) === 0) await equalsFreshStart(walk);
      }
    } catch (error) {
      const log = world
        .log()
        .slice(-40)
        .map(({ msg }) => msg);
      throw new Error(
        `seed ${SEED}, after step ${path.length}: ${path.slice(-STEPS_TO_QUIET - 5).join("; ")}\n${log.join("\n")}`,
        { cause: error },
      );
    }
    expect(path).toHaveLength(STEPS);
  },
);

/** Packets first: they are what it is all for. */
async function agrees(
  walk: Walk,
  knock: (host: string, port: number, source: string) => Promise<string>,
): Promise<void> {
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
  await until("status tells the same", async () => {
    const { forwards } = await world.status();
    return (
      forwards.length === model.ports.size &&
      forwards.every(({ guest, state }) => (state === "active") === isActive(model, guest))
    );
  });
  expect(await readForeign(world)).toBe(walk.foreign());
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
  const grown = await ownRules();
  await walk.daemon().kill("SIGSTOP");
  await kvmnatd("teardown");
  expect(await ownRules()).toBe("");
  expect(await readForeign(world)).toBe(walk.foreign());
  await kvmnatd("apply");
  expect(await ownRules()).toBe(grown);
  await walk.daemon().kill("SIGCONT");
}

function kvmnatd(command: string): ReturnType<DaemonWorld["lab"]["kvmnatd"]> {
  return world.lab.kvmnatd([command, "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
}
