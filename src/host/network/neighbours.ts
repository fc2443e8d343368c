import { setTimeout } from "node:timers/promises";
import { familyOf, parseIp, parseMac } from "../../net/address.ts";
import type { Mac } from "../../net/address.ts";
import type { ProbeResults, NeighbourProbe } from "../../identity/lookup.ts";
import { createLateAnswers } from "../../identity/late-answers.ts";
import type { LateAnswers } from "../../identity/late-answers.ts";
import { networkAddressKey } from "../../leases/lease-index.ts";
import { CommandError } from "../../errors.ts";
import { readIpJson } from "./ip-json.ts";
import { readProc } from "./proc.ts";
import type { Launcher } from "../exec/launcher.ts";
import type { Host } from "../../host-interface.ts";

/** An idle guest answers within a millisecond; who takes longer is asked again by a later pass. */
const ANSWER_MS = 5;
const POLL_MS = 1;

interface NeighbourRow {
  readonly dst?: string;
  readonly dev?: string;
  readonly lladdr?: string;
  readonly state?: readonly string[];
}

/** What the kernel has about an address on a link. Entries without ARP (`noarp`) are in none of its lists. */
interface Entry {
  /** Whose MAC is known to be there: somebody has answered, or the admin says so. */
  readonly mac?: Mac | undefined;
  /** Made by the admin, who knows better than any answer. */
  readonly isPermanent: boolean;
}

type Entries = ReadonlyMap<string, Entry>;

/** Probes neighbours; it remembers which answers came too late. */
export function createNeighbours(launcher: Launcher): Pick<Host, "probeNeighbours"> {
  const lateAnswers = createLateAnswers();
  return { probeNeighbours: (probes) => probeNeighbours(launcher, lateAnswers, probes) };
}

/**
 * Makes the kernel ask, by ARP or neighbour discovery, who has these addresses now, and reads who answered.
 * What the kernel knew of them before is forgotten: an entry may be right for half a minute after it became wrong. But
 * what the admin has made permanent, as a defence against guests that answer for others, stays and is the answer.
 * @throws KvmnatdError when the kernel cannot be asked or its list cannot be read
 */
async function probeNeighbours(
  launcher: Launcher,
  lateAnswers: LateAnswers,
  questions: readonly NeighbourProbe[],
): Promise<ProbeResults> {
  const before = await readEntries(launcher, questions);
  const late = [...before].filter(([key, { mac }]) => mac !== undefined && lateAnswers.awaits(key));
  lateAnswers.note(
    await confirm(launcher, new Map(late.map(([key, { mac }]) => [key, mac])), questions),
    performance.now(),
  );
  const open = questions.filter((each) => before.get(networkAddressKey(each))?.isPermanent !== true);
  if (open.length > 0) await askKernel(launcher, open.map((each) => askScript(each, before)).join(""));
  const endsAtMs = performance.now() + ANSWER_MS;
  for (;;) {
    // We may have been late ourselves: whether the answer was cannot be told then.
    const isLate = performance.now() > endsAtMs;
    const entries = await readEntries(launcher, questions);
    const answers = new Map(
      questions.map((each) => [networkAddressKey(each), entries.get(networkAddressKey(each))?.mac]),
    );
    const isOpen = questions.some((each) => answers.get(networkAddressKey(each)) === undefined);
    if (!isOpen || isLate) {
      const confirmed = await confirm(launcher, answers, questions);
      const isSure = questions.every((each) => confirmed.get(networkAddressKey(each)) !== undefined);
      if (isSure || isLate) return lateAnswers.complete(confirmed, performance.now(), isLate);
    }
    await setTimeout(POLL_MS);
  }
}

/**
 * `use` makes the kernel ask at once; a `failed` entry it asks for anew (Linux 6.1 to 6.18, iproute2 6.1). An entry that
 * is not listed is not there, or has no ARP: `use` alone makes the first and leaves the second as it is.
 */
function askScript(question: NeighbourProbe, before: Entries): string {
  const { address, bridge } = question;
  const forget = before.has(networkAddressKey(question))
    ? `neigh replace ${address} dev ${bridge} nud failed\n`
    : "";
  return `${forget}neigh replace ${address} dev ${bridge} nud none use\n`;
}

/** -force: a bridge that has gone since, or a full neighbour table, leaves its own questions unanswered and no others. */
async function askKernel(launcher: Launcher, script: string): Promise<void> {
  try {
    await launcher.run(["ip", "-force", "-batch", "-"], { input: script });
  } catch (error) {
    if (!(error instanceof CommandError) || error.exitCode === undefined) throw error;
  }
}

/**
 * Leaves out what nobody answered. dnsmasq puts into the kernel's list what it leases, from a request that anybody may
 * have forged; so may gratuitous ARP. The kernel has such an entry as `stale`, which its ARP list does not tell.
 */
async function confirm(
  launcher: Launcher,
  heard: ProbeResults,
  questions: readonly NeighbourProbe[],
): Promise<ProbeResults> {
  if ([...heard.values()].every((mac) => mac === undefined)) return heard;
  const families = new Set(questions.map(({ address }) => (familyOf(address) === 4 ? "-4" : "-6")));
  const answered = new Map(
    (await Promise.all([...families].map((family) => readNeighbours(launcher, family)))).flat(),
  );
  return new Map([...heard].map(([key, mac]) => [key, mac === undefined ? mac : answered.get(key)?.mac]));
}

/** By address and link: who is on another link may say of any address that it has it. */
async function readEntries(launcher: Launcher, questions: readonly NeighbourProbe[]): Promise<Entries> {
  return new Map([
    ...(questions.some(({ address }) => familyOf(address) === 4) ? readArp() : []),
    // There is no such list for IPv6.
    ...(questions.some(({ address }) => familyOf(address) === 6) ? await readNeighbours(launcher, "-6") : []),
  ]);
}

/** Flags of the kernel's ARP list (linux/if_arp.h). */
const ATF_COM = 0x02;
const ATF_PERM = 0x04;

/** The kernel's own list: `ADDRESS TYPE FLAGS MAC MASK DEVICE`. */
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

/** Those who have answered, and what the admin says. */
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
