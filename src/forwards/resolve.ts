import { familyOf } from "../net/address.ts";
import type { Family, Mac, HostAddresses } from "../net/address.ts";
import { isTaken, stillAnswers } from "../identity/choose-lease.ts";
import { findGuest } from "../identity/locate-guest.ts";
import type { Answers, Finding, Holder, Question, Target, World } from "../identity/lookup.ts";
import { indexUsable } from "../leases/usable-leases.ts";
import { placeKey } from "../leases/lease-index.ts";
import { findOwnAddresses, refuseOwn } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import { placeForwards } from "./host-addresses.ts";
import type { Guest, PortMap } from "../config/port-map.ts";
import { findPlugs } from "../leases/nic-bridges.ts";
import { publishedFamilies, publish } from "./resolved-forward.ts";
import type { GuestOutcome, ResolvedForward } from "./resolved-forward.ts";
import { recentMoves } from "../identity/flapping.ts";
import { wakeFor } from "../identity/recheck.ts";
import { limitWishes } from "../identity/probe-budget.ts";
import { identityText } from "../config/port-map.ts";

export interface Resolution {
  readonly forwards: readonly ResolvedForward[];
  readonly holders: readonly Holder[];
  /** When time alone changes the outcome (a lease expires, linger ends), epoch ms. */
  readonly wakeAtMs?: number;
  /** What is to be asked now to know better; empty once `answers` has them, or all that one pass may ask. */
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
  const places = placeForwards(portMap, host);
  const { answers } = evidence;
  const wishes = new Map<string, Wish>();
  let isFirst = true;
  const ask = (question: Question): Mac | undefined => {
    const key = placeKey(question);
    if (!answers.has(key) && !wishes.has(key)) {
      wishes.set(key, { question, isFirst });
      isFirst = false;
    }
    return answers.get(key);
  };
  const { running } = evidence;
  const facts = { networks, plugs: findPlugs(networks), own: findOwnAddresses(host), nowMs };
  const world: World = {
    ...facts,
    leases: indexUsable(facts),
    lingerMs: portMap.lingerMs,
    ...(running === undefined ? {} : { running }),
    ask,
  };
  const forwards: ResolvedForward[] = [];
  const kept: Holder[] = [];
  const wakes: number[] = [];
  for (const guest of portMap.guests) {
    for (const family of publishedFamilies(guest, places)) {
      const holder = holderOf(guest, family, holders);
      isFirst = true;
      const outcome = settle(findGuest(guest, family, holder, world), holder, guest, world);
      if (outcome.holder !== undefined) kept.push(outcome.holder);
      if (outcome.wakeAtMs !== undefined) wakes.push(outcome.wakeAtMs);
      for (const forward of guest.forwards) forwards.push(...publish(forward, family, places, outcome));
    }
  }
  const questions = limitWishes([...wishes.values()], answers.size, nowMs).map(({ question }) => question);
  return { forwards, holders: kept, questions, ...wakeAt(...wakes) };
}

/** A question, and whether it is the first of its guest's. */
interface Wish {
  readonly question: Question;
  readonly isFirst: boolean;
}

interface Settled extends GuestOutcome {
  readonly holder?: Holder;
  readonly wakeAtMs?: number;
}

/** Turns a finding into an outcome: who vanished lingers, who is merely not heard of stays. */
function settle(finding: Finding, holder: Holder | undefined, guest: Guest, world: World): Settled {
  if (finding.state === "found") {
    const { lease, note, inDoubt = false, left, silence } = finding;
    const { expiresAtMs } = lease;
    // Who has just moved is asked again soon, however long it was in doubt where they were.
    const before = holder?.address === lease.address ? holder.inDoubtSinceMs : undefined;
    const inDoubtSinceMs = inDoubt ? (before ?? world.nowMs) : undefined;
    const movedAtMs = recentMoves(
      holder?.movedAtMs,
      holder !== undefined && holder.address !== lease.address,
      world.nowMs,
    );
    const now: Holder = {
      guest: guest.name,
      identity: identityText(guest),
      address: lease.address,
      ...(lease.mac === undefined ? {} : { mac: lease.mac }),
      ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
      ...(inDoubtSinceMs === undefined ? {} : { inDoubtSinceMs }),
      ...(left === undefined ? {} : { left }),
      ...(silence === undefined ? {} : { silence }),
      ...(movedAtMs.length === 0 ? {} : { movedAtMs }),
    };
    return {
      target: lease,
      holder: now,
      ...(note === undefined ? {} : { why: note }),
      ...wakeAt(
        expiresAtMs,
        inDoubtSinceMs === undefined ? undefined : askAgainAt(inDoubtSinceMs, world.nowMs),
        silence === undefined ? undefined : wakeFor(silence),
      ),
    };
  }
  const { why } = finding;
  const remembered = holder === undefined ? {} : { holder };
  const contestedAtMs = world.nowMs + ASK_CONTESTED_MS;
  if (finding.state === "contested") return { why, ...remembered, wakeAtMs: contestedAtMs };
  if (holder === undefined) return { why };
  // The incumbent is remembered while its network is down: the name it holds must not be free for the taking.
  if (finding.state === "down") return { why: finding.why, holder };
  const refusal = refuseOwn(holder.address, world.own);
  if (refusal !== undefined) return { why: refusal };
  if (isTaken(holder, world)) return { why: finding.why };
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
  const askAtMs = finding.state === "vanished" && finding.askAgain === true ? contestedAtMs : undefined;
  // A clock that was set back must not make it linger for longer.
  const lostAtMs = Math.min(holder.lostAtMs ?? world.nowMs, world.nowMs);
  const endsAtMs = lostAtMs + world.lingerMs;
  if (world.nowMs >= endsAtMs) return { why, ...wakeAt(askAtMs) };
  return {
    target,
    holder: { ...holder, lostAtMs },
    why: `${why}; lingers`,
    ...wakeAt(endsAtMs, askAtMs),
  };
}

/** The first of these times. */
function wakeAt(...times: readonly (number | undefined)[]): { readonly wakeAtMs?: number } {
  const known = times.filter((at) => at !== undefined);
  return known.length === 0 ? {} : { wakeAtMs: Math.min(...known) };
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
