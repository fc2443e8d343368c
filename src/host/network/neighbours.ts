import { setTimeout } from "node:timers/promises";
import { familyOf, parseIp, parseMac } from "../../net/address.ts";
import type { Mac } from "../../net/address.ts";
import type { ProbeResults, NeighbourProbe } from "../../identity/lookup.ts";
import { recordProbes } from "../../identity/late-answers.ts";
import type { ProbeHistories, ProbeRound } from "../../identity/late-answers.ts";
import { networkAddressKey } from "../../leases/lease-index.ts";
import { CommandError } from "../../errors.ts";
import { readIpJson } from "./ip-json.ts";
import { readProc } from "./proc.ts";
import type { Launcher } from "../exec/launcher.ts";
import type { Host } from "../../host-interface.ts";

/** Timeout for an answer. An idle guest answers within 1 ms; a slower one is probed again by a later pass. */
const ANSWER_MS = 5;
/** Interval between readings of the kernel's neighbour table. */
const POLL_MS = 1;

/**
 * The kernel's neighbour table, with the history of the probes.
 *
 * `probeNeighbours` makes the kernel send an ARP or NDP probe for each address, and reads the MACs that answer. The kernel
 * first forgets its entries of these addresses: an entry can stay for half a minute after it became wrong. It keeps
 * permanent entries, and such an entry is the result. An administrator sets them as a defence against guests that answer
 * for others. `probeNeighbours` throws a KvmnatdError when the kernel cannot send probes or its table cannot be read.
 */
export function createNeighbours(launcher: Launcher): Pick<Host, "probeNeighbours"> {
  let histories: ProbeHistories = new Map();
  return {
    async probeNeighbours(probes) {
      const before = await readEntries(launcher, probes);
      const keys = probes.map(networkAddressKey);
      const silent = keys.filter((key) => histories.get(key)?.silentSinceMs !== undefined);
      const earlier = await confirm(launcher, pickMacs(before, silent), probes);
      await askKernel(launcher, probes, before);
      const answered = await readAnswers(launcher, probes);
      const recorded = recordProbes(histories, { earlier, ...answered, endMs: performance.now() });
      ({ histories } = recorded);
      return recorded.results;
    },
  };
}

/** Reads the table until each probe has a confirmed answer, or the time to answer is over. */
async function readAnswers(
  launcher: Launcher,
  probes: readonly NeighbourProbe[],
): Promise<Pick<ProbeRound, "answers" | "isReadLate">> {
  const keys = probes.map(networkAddressKey);
  const isComplete = (answers: ProbeResults): boolean => keys.every((key) => answers.get(key) !== undefined);
  const endsAtMs = performance.now() + ANSWER_MS;
  for (;;) {
    // kvmnatd itself may be late: then it is unknown whether the answers were.
    const isReadLate = performance.now() > endsAtMs;
    const entries = await readEntries(launcher, probes);
    const answers = pickMacs(entries, keys);
    if (isReadLate || isComplete(answers)) {
      const confirmed = await confirm(launcher, answers, probes);
      if (isReadLate || isComplete(confirmed)) return { answers: confirmed, isReadLate };
    }
    await setTimeout(POLL_MS);
  }
}

interface NeighbourRow {
  readonly dst?: string;
  readonly dev?: string;
  readonly lladdr?: string;
  readonly state?: readonly string[];
}

/** The kernel's entry for an address on a link. Entries without ARP (`noarp`) are not listed. */
interface Entry {
  /** The MAC that answered, or that the admin set. */
  readonly mac: Mac | undefined;
  /** Made by the admin. It counts more than any answer. */
  readonly isPermanent: boolean;
}

type Entries = ReadonlyMap<string, Entry>;

function pickMacs(entries: Entries, keys: readonly string[]): ProbeResults {
  return new Map(keys.map((key) => [key, entries.get(key)?.mac]));
}

/**
 * -force: a bridge that has gone since, or a full neighbour table, leaves its own probes unanswered and no others.
 * Permanent entries are left alone.
 */
async function askKernel(
  launcher: Launcher,
  probes: readonly NeighbourProbe[],
  before: Entries,
): Promise<void> {
  const open = probes.filter((probe) => before.get(networkAddressKey(probe))?.isPermanent !== true);
  if (open.length === 0) return;
  const input = open.map((probe) => askScript(probe, before)).join("");
  try {
    await launcher.run(["ip", "-force", "-batch", "-"], { input });
  } catch (error) {
    if (!(error instanceof CommandError) || error.exitCode === undefined) throw error;
  }
}

/**
 * `use` makes the kernel ask at once; it asks again for a `failed` entry (Linux 6.1 to 6.18, iproute2 6.1). An address
 * that is not listed has no entry, or one without ARP: `use` alone makes the first and leaves the second as it is.
 */
function askScript(probe: NeighbourProbe, before: Entries): string {
  const entry = `neigh replace ${probe.address} dev ${probe.bridge} nud`;
  return `${before.has(networkAddressKey(probe)) ? `${entry} failed\n` : ""}${entry} none use\n`;
}

/**
 * Keeps only the MACs that really answered. dnsmasq writes the MAC of each lease into the kernel's table, from a request
 * that another guest may have forged; gratuitous ARP can do so, too. Such an entry is `stale`, which /proc/net/arp does
 * not show.
 */
async function confirm(
  launcher: Launcher,
  seen: ProbeResults,
  probes: readonly NeighbourProbe[],
): Promise<ProbeResults> {
  if ([...seen.values()].every((mac) => mac === undefined)) return seen;
  const families = new Set(probes.map(({ address }) => (familyOf(address) === 4 ? "-4" : "-6")));
  const answered = new Map(
    (await Promise.all([...families].map((family) => readNeighbours(launcher, family)))).flat(),
  );
  return new Map([...seen].map(([key, mac]) => [key, mac === undefined ? mac : answered.get(key)?.mac]));
}

/** By address and link: a guest on another link can claim any address there. */
async function readEntries(launcher: Launcher, probes: readonly NeighbourProbe[]): Promise<Entries> {
  return new Map([
    ...(probes.some(({ address }) => familyOf(address) === 4) ? readArp() : []),
    // There is no such file for IPv6.
    ...(probes.some(({ address }) => familyOf(address) === 6) ? await readNeighbours(launcher, "-6") : []),
  ]);
}

/** Flags of /proc/net/arp (linux/if_arp.h). */
const ATF_COM = 0x02;
const ATF_PERM = 0x04;

/** /proc/net/arp: `ADDRESS TYPE FLAGS MAC MASK DEVICE`. */
function readArp(): readonly (readonly [string, Entry])[] {
  const text = readProc("/proc/net/arp") ?? "";
  return text.split("\n").flatMap((line) => {
    const [dst = "", , flags, lladdr = "", , link = ""] = line.split(/\s+/);
    return toEntry(
      dst,
      link,
      (Number(flags) & ATF_COM) === 0 ? "" : lladdr,
      (Number(flags) & ATF_PERM) !== 0,
    );
  });
}

/** Entries of neighbours that have answered, and permanent ones. */
async function readNeighbours(
  launcher: Launcher,
  family: "-4" | "-6",
): Promise<readonly (readonly [string, Entry])[]> {
  const rows = await readIpJson<NeighbourRow>(launcher, family, "neigh", "show");
  return rows.flatMap(({ dst = "", dev = "", lladdr = "", state = [] }) => {
    const isPermanent = state.includes("PERMANENT");
    return toEntry(dst, dev, isPermanent || state.includes("REACHABLE") ? lladdr : "", isPermanent);
  });
}

function toEntry(
  dst: string,
  link: string,
  lladdr: string,
  isPermanent: boolean,
): readonly (readonly [string, Entry])[] {
  const address = parseIp(dst);
  return address === undefined
    ? []
    : [[networkAddressKey({ address, bridge: link }), { mac: parseMac(lladdr), isPermanent }]];
}
