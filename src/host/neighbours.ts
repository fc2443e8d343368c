import { readFile } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";
import { familyOf, parseIp, parseMac } from "../core/address.ts";
import type { Mac } from "../core/address.ts";
import type { Answers, Question } from "../core/choose-lease.ts";
import { CommandError } from "../errors.ts";
import { runCommand } from "./run-command.ts";

/** An idle guest answers within a millisecond; who takes longer is asked again by a later pass. */
const ANSWER_MS = 5;
const POLL_MS = 1;

interface NeighbourRow {
  readonly dst?: string;
  readonly dev?: string;
  readonly lladdr?: string;
}

/**
 * Makes the kernel ask, by ARP or neighbour discovery, who has these addresses now, and reads who answered.
 * What the kernel knew of them before is forgotten: an entry may be right for half a minute after it became wrong.
 */
export async function askNeighbours(questions: readonly Question[]): Promise<Answers> {
  // `use` makes the kernel ask at once; a `failed` entry it asks for anew (Linux 6.1 to 6.18, iproute2 6.1).
  const script = questions.map(
    ({ address, bridge }) =>
      `neigh replace ${address} dev ${bridge} nud failed\nneigh replace ${address} dev ${bridge} nud none use\n`,
  );
  await askKernel(script.join(""));
  const endsAtMs = performance.now() + ANSWER_MS;
  for (;;) {
    const answers = await readAnswers(questions);
    const silent = questions.some(({ address }) => answers.get(address) === undefined);
    if (!silent || performance.now() > endsAtMs) return answers;
    await setTimeout(POLL_MS);
  }
}

/** -force: a bridge that has gone since, or a full neighbour table, leaves its own questions unanswered and no others. */
async function askKernel(script: string): Promise<void> {
  try {
    await runCommand(["ip", "-force", "-batch", "-"], { input: script });
  } catch (error) {
    if (!(error instanceof CommandError) || error.exitCode === undefined) throw error;
  }
}

/** What is known on other links does not count: who is there may say of any address that it has it. */
async function readAnswers(questions: readonly Question[]): Promise<Answers> {
  const known = new Map<string, Mac>();
  const rows = [
    ...(questions.some(({ address }) => familyOf(address) === 4) ? await readArp() : []),
    ...(questions.some(({ address }) => familyOf(address) === 6) ? await readNeighbours6() : []),
  ];
  for (const [ip, link, lladdr] of rows) {
    const [address, mac] = [parseIp(ip), parseMac(lladdr)];
    if (address !== undefined && mac !== undefined) known.set(`${address} ${link}`, mac);
  }
  return new Map(questions.map(({ address, bridge }) => [address, known.get(`${address} ${bridge}`)]));
}

type Row = readonly [address: string, link: string, mac: string];

/** The kernel's own list: `ADDRESS TYPE FLAGS MAC MASK DEVICE`; flag 0x2 says that somebody has answered. */
async function readArp(): Promise<readonly Row[]> {
  const lines = (await readFile("/proc/net/arp", "utf8")).split("\n").map((line) => line.split(/\s+/));
  return lines.flatMap(([address = "", , flags, mac = "", , link = ""]): readonly Row[] =>
    (Number(flags) & 2) === 0 ? [] : [[address, link, mac]],
  );
}

/** There is no such list for IPv6. */
async function readNeighbours6(): Promise<readonly Row[]> {
  const { stdout } = await runCommand(["ip", "-6", "-json", "neigh", "show", "nud", "reachable"]);
  const rows = JSON.parse(stdout === "" ? "[]" : stdout) as readonly NeighbourRow[];
  return rows.map(({ dst = "", dev = "", lladdr = "" }): Row => [dst, dev, lladdr]);
}
