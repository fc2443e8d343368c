import { createDaemonWorld } from "./daemon-world.ts";
import type { DaemonWorld } from "./daemon-world.ts";
import { until } from "./lab.ts";
import type { Daemon, LabProcess } from "./lab.ts";
import { mountTree } from "./tree.ts";
import type { Tree } from "./tree.ts";
import { CLIENT, HOST } from "./world.ts";

/** A host with a forward to guest `web`, and the neighbours of a Debian tree, to be started. */
export interface Place {
  readonly world: DaemonWorld;
  /** Runs a shell script in the Debian tree. @returns its exit code, which is the neighbour's own affair */
  sh(script: string): Promise<number>;
  /** Starts a program of the tree that stays. */
  spawn(command: readonly string[]): LabProcess;
}

/** What a neighbour does: a shell script, or more. @returns what must be the same with kvmnatd and without */
export type Event = string | ((place: Place) => Promise<unknown>);

type Answer = "answers" | "nothing";

/** One side of a comparison: what the neighbour said, and all rules that are not of the forward. */
interface Theirs {
  readonly said: unknown;
  readonly rules: string;
}

/** What became of the forward, and of everybody else's rules. */
interface Outcome {
  /** With rules made by hand, which nobody keeps. */
  readonly byHand: Answer;
  /** With kvmnatd, once it has nothing left to do. */
  readonly kept: Answer;
  /** Whether kvmnatd changed a rule. */
  readonly repaired: boolean;
  readonly theirs: { readonly byHand: Theirs; readonly kept: Theirs };
}

/** In ms; KVMNATD_TIMES=1 prints them. */
interface Times {
  /** From the end of the neighbour's command to the first client that was served; 0 where no client noticed. */
  readonly answerMs: number;
  /** From the same to kvmnatd's word that the kernel is right again. */
  readonly repairMs: number;
  /** From the first client that was not served to the first one that was again. */
  readonly outageMs: number;
}

/** Two equal hosts. What a neighbour does to rules that nobody keeps is the measure for what it does beside kvmnatd. */
export interface Neighbourhood {
  readonly daemon: Daemon;
  readonly kept: Place;
  /** Plays an event on the one, then on the other. */
  play(name: string, event: Event): Promise<Outcome>;
  /** For a test that failed. */
  dump(): Promise<void>;
  close(): Promise<void>;
}

const HEALED_MS = 5000;
const PORT = 1122;

/** The same rules as kvmnatd's, made by hand. They bear its names so that both are left out of a comparison. */
const BY_HAND = `
iptables-VARIANT -t filter -D FORWARD -j KVMNATD-FWD 2>/dev/null || :
iptables-VARIANT -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j KVMNATD-DNAT 2>/dev/null || :
iptables-VARIANT-restore --noflush <<'RULES'
*filter
:KVMNATD-FWD - [0:0]
-A KVMNATD-FWD -d 192.168.122.0/24 -o virbr0 -m conntrack --ctstate DNAT -j ACCEPT
-A KVMNATD-FWD -s 192.168.122.0/24 -i virbr0 -m conntrack --ctstate DNAT --ctdir REPLY -j ACCEPT
-I FORWARD -j KVMNATD-FWD
COMMIT
*nat
:KVMNATD-DNAT - [0:0]
-A KVMNATD-DNAT -p tcp -m tcp --dport ${PORT} -j DNAT --to-destination 192.168.122.11:22
-I PREROUTING -m addrtype --dst-type LOCAL -j KVMNATD-DNAT
COMMIT
RULES
`;

/** Tables that no iptables shows; without counters. */
const NATIVE_TABLES = `
nft list tables | grep -v -E '^table ip6? (filter|nat|mangle|raw|security)$' | while read -r table; do
  nft --stateless list $table
done
`;

/** A client in every 20 ms, none of which waits for another; says when each began and ended, and whether it was served. */
const CLIENTS = `
const { connect } = require("node:net");
setInterval(() => {
  const startedAt = Date.now();
  const socket = connect({ host: "${HOST}", port: ${PORT} });
  let over = false;
  const end = (served) => {
    if (over) return;
    over = true;
    clearTimeout(timer);
    socket.destroy();
    console.log(startedAt, Date.now(), served);
  };
  const timer = setTimeout(end, 300, false);
  socket.on("error", () => end(false));
  socket.on("data", () => end(true));
}, 20);
`;

interface Attempt {
  readonly startedAt: number;
  readonly endedAt: number;
  readonly served: boolean;
}

/** @param before is done in both before there is any forward */
export async function createNeighbourhood(
  before: (place: Place) => Promise<unknown> = () => Promise.resolve(),
  variant: "nft" | "legacy" = "nft",
): Promise<Neighbourhood> {
  const places: Place[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(places.map(({ world }) => world.close()));
  };
  try {
    for (let count = 0; count < 2; count += 1) places.push(await createPlace(variant));
    await Promise.all(places.map((place) => before(place)));
    const [byHand, kept] = places;
    if (byHand === undefined || kept === undefined) throw new Error("no places");
    const daemon = await kept.world.start();
    const clients = kept.world.lab.spawn([process.execPath, "-e", CLIENTS], { netns: "client" });
    const makeByHand = (): Promise<unknown> =>
      byHand.world.lab.exec(["sh", "-ec", BY_HAND.replaceAll("VARIANT", variant)]);
    return {
      daemon,
      kept,
      play: async (name, event) => {
        await makeByHand();
        await until("both forwards answer", async () =>
          (await Promise.all([ask(byHand), ask(kept)])).every((answer) => answer === "answers"),
        );
        await kept.world.isWell();
        const control = await playByHand(byHand, event, makeByHand);
        const subject = await playKept(kept, event, clients);
        const { said, rules, times, ...outcome } = subject;
        if (process.env["KVMNATD_TIMES"] !== undefined) console.log(name, JSON.stringify(times));
        return {
          ...outcome,
          byHand: control.answer,
          theirs: { byHand: control.theirs, kept: { said, rules } },
        };
      },
      dump: async () => console.error([...daemon.lines, await rulesOfOthers(kept)].join("\n")),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function createPlace(variant: "nft" | "legacy"): Promise<Place> {
  const world = await createDaemonWorld(variant);
  const tree: Tree = await mountTree(world.lab);
  return {
    world,
    sh: async (script) => (await world.lab.exec(tree.run(["sh", "-c", script]), { check: false })).exitCode,
    spawn: (command) => world.lab.spawn(tree.run(command)),
  };
}

function happen(event: Event, place: Place): Promise<unknown> {
  return typeof event === "string" ? place.sh(event) : event(place);
}

async function ask(place: Place): Promise<Answer> {
  return (await place.world.web()) === `web 22 ${CLIENT}` ? "answers" : "nothing";
}

async function playByHand(
  place: Place,
  event: Event,
  repair: () => Promise<unknown>,
): Promise<{ readonly answer: Answer; readonly theirs: Theirs }> {
  const said = await happen(event, place);
  const answer = await ask(place);
  // kvmnatd has to make the tables that somebody flushed as well.
  await repair();
  return { answer, theirs: { said, rules: await rulesOfOthers(place) } };
}

async function playKept(
  place: Place,
  event: Event,
  clients: LabProcess,
): Promise<Theirs & Omit<Outcome, "byHand" | "theirs"> & { readonly times: Times }> {
  const { world } = place;
  const startedAt = Date.now();
  const said = await happen(event, place);
  const endedAt = Date.now();
  // First what clients see, which costs no time, then the kernel.
  await until("a client is served again", () => servedSince(clients, endedAt), HEALED_MS);
  await until("the kernel is what it should be", () => nothingToChange(world), HEALED_MS);
  const repairs = world.log().filter(({ time, action }) => action !== undefined && time >= startedAt);
  const repairMs = Math.max(0, (repairs.at(-1)?.time ?? endedAt) - endedAt);
  return {
    said,
    kept: await ask(place),
    repaired: repairs.length > 0,
    rules: await rulesOfOthers(place),
    times: { ...measure(readAttempts(clients), startedAt, endedAt), repairMs },
  };
}

function servedSince(clients: LabProcess, since: number): boolean {
  return readAttempts(clients).some(({ startedAt, served }) => served && startedAt >= since);
}

/** In the order in which they began. */
function readAttempts(clients: LabProcess): readonly Attempt[] {
  return clients.lines
    .map((line): Attempt => {
      const [startedAt, endedAt, served] = line.split(" ");
      return { startedAt: Number(startedAt), endedAt: Number(endedAt), served: served === "true" };
    })
    .toSorted((a, b) => a.startedAt - b.startedAt);
}

function measure(attempts: readonly Attempt[], startedAt: number, endedAt: number): Omit<Times, "repairMs"> {
  const during = attempts.filter((attempt) => attempt.endedAt >= startedAt);
  const first = during.find(({ served }) => !served);
  const last = during.findLast(({ served }) => !served);
  if (first === undefined || last === undefined) return { answerMs: 0, outageMs: 0 };
  const again = during.find((attempt) => attempt.served && attempt.startedAt > last.startedAt);
  const servedAt = again?.endedAt ?? Number.POSITIVE_INFINITY;
  return { answerMs: Math.max(0, servedAt - endedAt), outageMs: servedAt - first.startedAt };
}

async function nothingToChange(world: DaemonWorld): Promise<boolean> {
  const options = ["-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
  return (await world.lab.kvmnatd(["plan", ...options])).exitCode === 0;
}

/** Everybody else's rules: iptables' of both variants and families, and the tables that nft alone shows. */
async function rulesOfOthers(place: Place): Promise<string> {
  const { stdout } = await place.world.lab.exec(["sh", "-ec", NATIVE_TABLES]);
  return `${withoutEmptyTables(await place.world.foreignRules())}${stdout}`;
}

/** A table in which there is nothing is as good as none. */
function withoutEmptyTables(save: string): string {
  return save.replaceAll(/^\*\w+\n(:\w+ ACCEPT\n)+COMMIT\n/gm, "");
}
