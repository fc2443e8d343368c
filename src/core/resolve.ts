import { familyOf } from "./address.ts";
import type { Family, Ip, Mac } from "./address.ts";
import { leasedByOther, stillAnswers } from "./choose-lease.ts";
import type { Answers, Question } from "./choose-lease.ts";
import { findContested, findGuest, findUsableLeases } from "./find-guest.ts";
import type { Finding, Holder, Target, World } from "./find-guest.ts";
import type { HostAddresses, Network } from "./network.ts";
import { identityText } from "./owner.ts";
import type { Guest, PortMap } from "./port-map.ts";
import { familiesOf, publish } from "./publish.ts";
import type { Outcome, ResolvedForward } from "./publish.ts";

export interface Resolution {
  readonly forwards: readonly ResolvedForward[];
  readonly holders: readonly Holder[];
  /** When time alone changes the outcome (a lease expires, linger ends), epoch ms. */
  readonly wakeAtMs?: number;
  /** What would have to be asked to know better; empty once `answers` has them. */
  readonly questions: readonly Question[];
}

export interface Evidence {
  /** What the neighbours said to the questions of a first try. */
  readonly answers: Answers;
  /** Domains that libvirt runs; absent where it does not say. */
  readonly running?: ReadonlySet<string> | undefined;
}

/**
 * Port map x leases x incumbents -> where every forward leads.
 * @param evidence what else is known, beside what the files say
 * @param holders the outcome of the pass before (or what the kernel's rules say, at start)
 */
export function resolveForwards(
  portMap: PortMap,
  networks: readonly Network[],
  host: HostAddresses,
  holders: readonly Holder[],
  nowMs: number,
  evidence: Evidence = { answers: new Map() },
): Resolution {
  const usable = findUsableLeases(networks, nowMs);
  const questions = new Map<Ip, Question>();
  const ask = (question: Question): Mac | undefined => {
    if (!evidence.answers.has(question.address)) questions.set(question.address, question);
    return evidence.answers.get(question.address);
  };
  const { running } = evidence;
  const world: World = {
    networks,
    usable,
    contested: findContested(usable),
    nowMs,
    lingerMs: portMap.lingerMs,
    ...(running === undefined ? {} : { running }),
    ask,
  };
  const forwards: ResolvedForward[] = [];
  const kept: Holder[] = [];
  const wakes: number[] = [];
  for (const guest of portMap.guests) {
    for (const family of familiesOf(guest, host)) {
      const holder = holderOf(guest, family, holders);
      const outcome = settle(findGuest(guest, family, holder, world), holder, guest, world);
      if (outcome.holder !== undefined) kept.push(outcome.holder);
      if (outcome.wakeAtMs !== undefined) wakes.push(outcome.wakeAtMs);
      for (const forward of guest.forwards) forwards.push(...publish(forward, family, host, outcome));
    }
  }
  const wakeAtMs = wakes.length === 0 ? undefined : Math.min(...wakes);
  return {
    forwards,
    holders: kept,
    questions: [...questions.values()],
    ...(wakeAtMs === undefined ? {} : { wakeAtMs }),
  };
}

interface Settled extends Outcome {
  readonly holder?: Holder;
  readonly wakeAtMs?: number;
}

/** Turns a finding into an outcome: who vanished lingers, who is merely not heard of stays. */
function settle(finding: Finding, holder: Holder | undefined, guest: Guest, world: World): Settled {
  if (finding.state === "found") {
    const { lease, note, inDoubt = false, left } = finding;
    const { expiresAtMs } = lease;
    const inDoubtSinceMs = inDoubt ? (holder?.inDoubtSinceMs ?? world.nowMs) : undefined;
    const now: Holder = {
      guest: guest.name,
      identity: identityText(guest),
      address: lease.address,
      ...(lease.mac === undefined ? {} : { mac: lease.mac }),
      ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
      ...(inDoubtSinceMs === undefined ? {} : { inDoubtSinceMs }),
      ...(left === undefined ? {} : { left }),
    };
    const askAgain = inDoubtSinceMs === undefined ? undefined : askAgainAt(inDoubtSinceMs, world.nowMs);
    const wakes = [expiresAtMs, askAgain].filter((at) => at !== undefined);
    return {
      target: lease,
      holder: now,
      ...(note === undefined ? {} : { why: note }),
      ...(wakes.length === 0 ? {} : { wakeAtMs: Math.min(...wakes) }),
    };
  }
  const { why } = finding;
  const remembered = holder === undefined ? {} : { holder };
  if (finding.state === "contested") return { why, ...remembered, wakeAtMs: world.nowMs + ASK_CONTESTED_MS };
  if (holder === undefined) return { why };
  // The incumbent is remembered while its network is down: the name it holds must not be free for the taking.
  if (finding.state === "down") return { why: finding.why, holder };
  if (leasedByOther(holder.address, holder.mac, world)) return { why: finding.why };
  const target: Target = {
    address: holder.address,
    ...(holder.mac === undefined ? {} : { mac: holder.mac }),
  };
  if (finding.state === "unknown") return { target, holder, why: `kept as it was: ${finding.why}` };
  if (finding.state === "vanished" && stillAnswers(holder, world)) {
    const { lostAtMs: _over, ...rest } = holder;
    const inDoubtSinceMs = holder.inDoubtSinceMs ?? world.nowMs;
    return {
      target,
      holder: { ...rest, inDoubtSinceMs },
      why: `its lease vanished, but ${holder.mac} still answers there: kept`,
      wakeAtMs: Math.min(
        askAgainAt(inDoubtSinceMs, world.nowMs),
        holder.expiresAtMs ?? Number.POSITIVE_INFINITY,
      ),
    };
  }
  // A clock that was set back must not make it linger for longer.
  const lostAtMs = Math.min(holder.lostAtMs ?? world.nowMs, world.nowMs);
  const endsAtMs = lostAtMs + world.lingerMs;
  if (world.nowMs >= endsAtMs) return { why: finding.why };
  return { target, holder: { ...holder, lostAtMs }, why: `${finding.why}; lingers`, wakeAtMs: endsAtMs };
}

function holderOf(guest: Guest, family: Family, holders: readonly Holder[]): Holder | undefined {
  const identity = identityText(guest);
  const mac = guest.identity.kind === "mac" ? guest.identity.mac : undefined;
  return holders.find(
    (each) =>
      each.guest === guest.name &&
      each.identity === identity &&
      (mac === undefined || each.mac === mac) &&
      familyOf(each.address) === family,
  );
}

/** Whose address another MAC has a lease of, too, is asked this often whether it is there by now. */
const ASK_CONTESTED_MS = 1000;
const ASK_AGAIN_MIN_MS = 50;
const ASK_AGAIN_MAX_MS = 5000;

/** Soon at first, a guest may just be setting up its address; then ever more rarely. */
function askAgainAt(inDoubtSinceMs: number, nowMs: number): number {
  return nowMs + Math.min(Math.max(nowMs - inDoubtSinceMs, ASK_AGAIN_MIN_MS), ASK_AGAIN_MAX_MS);
}
