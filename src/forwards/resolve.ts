import { familyOf } from "../net/address.ts";
import type { Family, Mac, HostAddresses } from "../net/address.ts";
import { isTaken, stillAnswers } from "../identity/choose-lease.ts";
import { locateGuest } from "../identity/locate-guest.ts";
import type {
  ProbeResults,
  LookupResult,
  Incumbent,
  NeighbourProbe,
  Target,
  LookupContext,
} from "../identity/lookup.ts";
import { indexUsable } from "../leases/usable-leases.ts";
import { networkAddressKey } from "../leases/lease-index.ts";
import { findOwnAddresses, checkNotOwn } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import { assignHostAddresses } from "./host-addresses.ts";
import type { Guest, PortMap } from "../config/port-map.ts";
import { findNicBridges } from "../leases/nic-bridges.ts";
import { publishedFamilies, resolveForward } from "./resolved-forward.ts";
import type { GuestOutcome, ResolvedForward } from "./resolved-forward.ts";
import { recentMoves } from "../identity/flapping.ts";
import { recheckAtMs } from "../identity/recheck.ts";
import { limitProbes } from "../identity/probe-budget.ts";
import { identityText } from "../config/port-map.ts";

export interface Resolution {
  readonly forwards: readonly ResolvedForward[];
  readonly incumbents: readonly Incumbent[];
  /** When time alone changes the outcome (a lease expires, linger ends), epoch ms. */
  readonly wakeAtMs?: number;
  /** What is to be asked now to know better; empty once `answers` has them, or all that one pass may ask. */
  readonly questions: readonly NeighbourProbe[];
}

export interface Evidence {
  /** What the neighbours said to the questions of a first try. */
  readonly answers: ProbeResults;
  /** Domains that libvirt runs; absent where it does not say. */
  readonly running?: ReadonlySet<string> | undefined;
}

/**
 * Port map x leases x incumbents -> where every forward leads.
 * @param evidence what else is known, beside what the files say
 * @param incumbents the outcome of the pass before (or what the kernel's rules say, at start)
 */
export function resolveForwards(
  portMap: PortMap,
  networks: readonly Network[],
  host: HostAddresses,
  incumbents: readonly Incumbent[],
  nowMs: number,
  evidence: Evidence = { answers: new Map() },
): Resolution {
  const places = assignHostAddresses(portMap, host);
  const { answers } = evidence;
  const wishes = new Map<string, Wish>();
  let isFirst = true;
  const ask = (question: NeighbourProbe): Mac | undefined => {
    const key = networkAddressKey(question);
    if (!answers.has(key) && !wishes.has(key)) {
      wishes.set(key, { question, isFirst });
      isFirst = false;
    }
    return answers.get(key);
  };
  const { running } = evidence;
  const facts = {
    networks,
    nicBridges: findNicBridges(networks),
    ownAddresses: findOwnAddresses(host),
    nowMs,
  };
  const context: LookupContext = {
    ...facts,
    leases: indexUsable(facts),
    lingerMs: portMap.lingerMs,
    ...(running === undefined ? {} : { running }),
    ask,
  };
  const forwards: ResolvedForward[] = [];
  const kept: Incumbent[] = [];
  const wakes: number[] = [];
  for (const guest of portMap.guests) {
    for (const family of publishedFamilies(guest, places)) {
      const incumbent = findIncumbent(guest, family, incumbents);
      isFirst = true;
      const outcome = settle(locateGuest(guest, family, incumbent, context), incumbent, guest, context);
      if (outcome.incumbent !== undefined) kept.push(outcome.incumbent);
      if (outcome.wakeAtMs !== undefined) wakes.push(outcome.wakeAtMs);
      for (const forward of guest.forwards)
        forwards.push(...resolveForward(forward, family, places, outcome));
    }
  }
  const questions = limitProbes([...wishes.values()], answers.size, nowMs).map(({ question }) => question);
  return { forwards, incumbents: kept, questions, ...wakeAt(...wakes) };
}

/** A question, and whether it is the first of its guest's. */
interface Wish {
  readonly question: NeighbourProbe;
  readonly isFirst: boolean;
}

interface Settled extends GuestOutcome {
  readonly incumbent?: Incumbent;
  readonly wakeAtMs?: number;
}

/** Turns a lookup into an outcome: who vanished lingers, who is merely not heard of stays. */
function settle(
  lookup: LookupResult,
  incumbent: Incumbent | undefined,
  guest: Guest,
  context: LookupContext,
): Settled {
  if (lookup.state === "found") {
    const { lease, note, isAmbiguous: inDoubt = false, previousAddress: left, unanswered: silence } = lookup;
    const { expiresAtMs } = lease;
    // Who has just moved is asked again soon, however long it was in doubt where they were.
    const before = incumbent?.address === lease.address ? incumbent.ambiguousSinceMs : undefined;
    const inDoubtSinceMs = inDoubt ? (before ?? context.nowMs) : undefined;
    const movedAtMs = recentMoves(
      incumbent?.recentMovesAtMs,
      incumbent !== undefined && incumbent.address !== lease.address,
      context.nowMs,
    );
    const now: Incumbent = {
      guest: guest.name,
      identity: identityText(guest),
      address: lease.address,
      ...(lease.mac === undefined ? {} : { mac: lease.mac }),
      ...(expiresAtMs === undefined ? {} : { expiresAtMs }),
      ...(inDoubtSinceMs === undefined ? {} : { ambiguousSinceMs: inDoubtSinceMs }),
      ...(left === undefined ? {} : { previousAddress: left }),
      ...(silence === undefined ? {} : { unanswered: silence }),
      ...(movedAtMs.length === 0 ? {} : { recentMovesAtMs: movedAtMs }),
    };
    return {
      target: lease,
      incumbent: now,
      ...(note === undefined ? {} : { why: note }),
      ...wakeAt(
        expiresAtMs,
        inDoubtSinceMs === undefined ? undefined : askAgainAt(inDoubtSinceMs, context.nowMs),
        silence === undefined ? undefined : recheckAtMs(silence),
      ),
    };
  }
  const { why } = lookup;
  const remembered = incumbent === undefined ? {} : { incumbent };
  const contestedAtMs = context.nowMs + ASK_CONTESTED_MS;
  if (lookup.state === "mac-mismatch") return { why, ...remembered, wakeAtMs: contestedAtMs };
  if (incumbent === undefined) return { why };
  // The incumbent is remembered while its network is down: the name it holds must not be free for the taking.
  if (lookup.state === "network-down") return { why: lookup.why, incumbent };
  const refusal = checkNotOwn(incumbent.address, context.ownAddresses);
  if (refusal !== undefined) return { why: refusal };
  if (isTaken(incumbent, context)) return { why: lookup.why };
  const target: Target = {
    address: incumbent.address,
    ...(incumbent.mac === undefined ? {} : { mac: incumbent.mac }),
  };
  if (lookup.state === "unreadable") return { target, incumbent, why: `kept as it was: ${lookup.why}` };
  if (lookup.state === "lease-missing" && stillAnswers(incumbent, context)) {
    const { leaseLostAtMs: _over, ...rest } = incumbent;
    const inDoubtSinceMs = incumbent.ambiguousSinceMs ?? context.nowMs;
    return {
      target,
      incumbent: { ...rest, ambiguousSinceMs: inDoubtSinceMs },
      why: `its lease vanished, but ${incumbent.mac} still answers there: kept`,
      wakeAtMs: Math.min(
        askAgainAt(inDoubtSinceMs, context.nowMs),
        incumbent.expiresAtMs ?? Number.POSITIVE_INFINITY,
      ),
    };
  }
  const askAtMs = lookup.state === "lease-missing" && lookup.askAgain === true ? contestedAtMs : undefined;
  // A clock that was set back must not make it linger for longer.
  const lostAtMs = Math.min(incumbent.leaseLostAtMs ?? context.nowMs, context.nowMs);
  const endsAtMs = lostAtMs + context.lingerMs;
  if (context.nowMs >= endsAtMs) return { why, ...wakeAt(askAtMs) };
  return {
    target,
    incumbent: { ...incumbent, leaseLostAtMs: lostAtMs },
    why: `${why}; lingers`,
    ...wakeAt(endsAtMs, askAtMs),
  };
}

/** The first of these times. */
function wakeAt(...times: readonly (number | undefined)[]): { readonly wakeAtMs?: number } {
  const known = times.filter((at) => at !== undefined);
  return known.length === 0 ? {} : { wakeAtMs: Math.min(...known) };
}

function findIncumbent(
  guest: Guest,
  family: Family,
  incumbents: readonly Incumbent[],
): Incumbent | undefined {
  const identity = identityText(guest);
  const mac = guest.identity.kind === "mac" ? guest.identity.mac : undefined;
  return incumbents.find(
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
