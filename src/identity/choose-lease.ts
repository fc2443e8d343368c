import type { Ip, Mac } from "../net/address.ts";
import type { LookupResult, Found, Incumbent, Target, LookupContext } from "./lookup.ts";
import type { NetworkAddress } from "../leases/lease-index.ts";
import type { Lease } from "../leases/lease.ts";
import { checkGuestAddress, checkNotOwn } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import { checkNicBridge } from "../leases/nic-bridges.ts";
import { isFlapping } from "./flapping.ts";
import { updateUnanswered, isDue } from "./recheck.ts";
import { MAX_NEWEST_LEASES, rotateCandidates } from "./probe-budget.ts";

/*
 * Several live leases of one MAC are normal (PXE, then the installed system), and an attack: a guest may ask for a
 * lease with another's MAC in the payload, or release another's. Who really has a MAC shows in who answers:
 *
 *   candidates: its live leases, the newest first; then the address it had, if that lease vanished before its time
 *
 *   one, where the forward leads already      -> that one, nobody is asked
 *   some answer with the MAC                  -> the first of them
 *   at those that are left nobody answers     -> the incumbent's, if it has a live lease; else the newest lease
 *   at each live lease another MAC answers    -> none, but the address it had lingers
 *   it has moved again and again (restless.ts) -> the incumbent's, if it answers there
 *
 * Another NIC of the same guest is no other MAC: on one bridge, Linux answers for all addresses of a guest with any.
 * An address of which another MAC has a live lease too (forged rows) is a candidate for who answers there; while nobody
 * does, for the incumbent alone.
 */

interface Candidate extends Target {
  readonly bridge: string;
  readonly mac: Mac;
  readonly isLive: boolean;
}

/** How long an address that was left for one that does not answer (yet) is still asked. */
const RETURN_MS = 60_000;

/**
 * Which of a MAC's addresses is the guest's.
 * @param leases its live leases, at least one
 */
export function chooseLease(
  mac: Mac,
  leases: readonly Lease[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): LookupResult {
  const sorted = leases.toSorted((one, other) => newestFirst(one, other, incumbent)).map(toCandidate);
  const known = new Set([incumbent?.address, incumbent?.previousAddress]);
  const leased = sorted.filter((each, index) => index < MAX_NEWEST_LEASES || known.has(each.address));
  const live = leased.filter((each) => mayHave(each, incumbent, context));
  const former = vanished(mac, leased, incumbent, context);
  const [newest] = live;
  if (newest !== undefined && live.length + former.length === 1 && !isShared(newest, context))
    return judgeOnly(newest, incumbent, context);
  const candidates = [...live, ...former];
  // Where the forward leads now is asked first: not all questions of a pass may be asked.
  const questions = candidates.toSorted(
    (one, other) => Number(known.has(other.address)) - Number(known.has(one.address)),
  );
  const own = new Set(questions.filter((each) => hasAnswered(each, context)));
  const stay = candidates.find((each) => own.has(each) && each.address === incumbent?.address);
  if (stay !== undefined && stay !== candidates[0] && isFlapping(incumbent?.recentMovesAtMs, context.nowMs))
    return {
      state: "found",
      lease: toTarget(stay),
      isAmbiguous: true,
      note: `it moves again and again: kept at ${stay.address} for a minute, as long as it answers there`,
    };
  const answering =
    candidates.find((each) => own.has(each)) ??
    rotateCandidates(
      sorted.filter((each) => !leased.includes(each)),
      context.nowMs,
    ).find((each) => hasAnswered(each, context));
  if (answering !== undefined)
    return {
      state: "found",
      lease: toTarget(answering),
      isAmbiguous: true,
      ...noteOn(answering, candidates, context),
    };
  const silent = live.filter((each) => answerAt(each, context) === undefined);
  const chosen = silent.find((each) => each.address === incumbent?.address) ?? silent[0];
  if (chosen === undefined) return explainRefusal(leased, former, incumbent, context);
  const [left] = former;
  return {
    state: "found",
    lease: toTarget(chosen),
    isAmbiguous: true,
    ...(left === undefined ? {} : { previousAddress: left.address }),
    ...noteOnSilence(chosen, live, sorted.length, context),
  };
}

/** The only address that can be the guest's: where it leads already it stays; anywhere else another MAC must not answer. */
function judgeOnly(only: Candidate, incumbent: Incumbent | undefined, context: LookupContext): LookupResult {
  const found: Found = { state: "found", lease: toTarget(only) };
  const held = incumbent?.mac === only.mac && incumbent.address === only.address ? incumbent : undefined;
  const silence = held?.unanswered;
  if (held !== undefined && held.ambiguousSinceMs === undefined) {
    if (silence === undefined) return found;
    if (!isDue(silence, context.nowMs)) return { ...found, unanswered: silence };
  }
  if (answerAt(only, context) === undefined)
    return { ...found, unanswered: updateUnanswered(silence, context.nowMs) };
  return hasAnswered(only, context) ? found : { state: "mac-mismatch", why: describeRefusal(only, context) };
}

/** Another MAC answers at each of its leases. Where it led, it may be slow to answer: that is not given up at once. */
function explainRefusal(
  leased: readonly Candidate[],
  former: readonly Candidate[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): LookupResult {
  const [first] = leased;
  if (first === undefined) throw new Error("chooseLease needs a lease");
  const why = describeRefusal(first, context);
  return former.some((each) => each.address === incumbent?.address)
    ? { state: "lease-missing", why, askAgain: true }
    : { state: "mac-mismatch", why };
}

function describeRefusal(candidate: Candidate, context: LookupContext): string {
  const { address, mac } = candidate;
  if (isShared(candidate, context)) return describeContest(candidate, context);
  const answer = answerAt(candidate, context) ?? "nobody";
  return `${address} is leased to ${mac}, but ${answer} answers there; a guest that answers with another MAC than it leases with needs \`address\``;
}

function noteOnSilence(
  chosen: Candidate,
  live: readonly Candidate[],
  count: number,
  context: LookupContext,
): { readonly note?: string } {
  const { address, mac } = chosen;
  if (isShared(chosen, context)) return { note: describeContest(chosen, context) };
  const refused = live.filter((each) => answerAt(each, context) !== undefined);
  if (refused.length > 0) {
    const answers = new Set(refused.map((each) => answerAt(each, context)));
    const who = answers.size === 1 ? `${[...answers].join("")} answers` : "others answer";
    return {
      note: `unverified: ${mac} does not answer at ${address}; ${listOf(refused)} passed over: ${who} there`,
    };
  }
  if (live.length < 2) return {};
  const which = count > MAX_NEWEST_LEASES ? `none of the ${MAX_NEWEST_LEASES} newest` : "none";
  return { note: `unverified: ${mac} has ${count} live leases and answers at ${which}` };
}

/** Whether an address that is leased to another MAC as well can be this one's. */
function mayHave(candidate: Candidate, incumbent: Incumbent | undefined, context: LookupContext): boolean {
  const { address, mac } = candidate;
  if (!isShared(candidate, context)) return true;
  const answer = answerAt(candidate, context);
  return answer === undefined
    ? incumbent?.mac === mac && incumbent.address === address
    : isGuestMac(answer, candidate, context);
}

function describeContest(candidate: Candidate, context: LookupContext): string {
  const { address, mac } = candidate;
  const others = context.leases.at(candidate).filter((each) => each.mac !== mac);
  const macs = others.map((each) => each.mac).toSorted();
  const answer = answerAt(candidate, context) ?? "nobody";
  return `conflict: ${address} is leased to ${mac} and to ${macs.join(", ")}, and ${answer} answers there`;
}

/** Whether the guest still answers where it was, though its lease vanished before its time and nobody else has it. */
export function stillAnswers(incumbent: Incumbent, context: LookupContext): boolean {
  const { mac } = incumbent;
  if (mac === undefined) return false;
  return vanished(mac, [], incumbent, context).some(
    (each) => each.address === incumbent.address && hasAnswered(each, context),
  );
}

function noteOn(
  chosen: Candidate,
  candidates: readonly Candidate[],
  context: LookupContext,
): { readonly note?: string } {
  if (isShared(chosen, context)) return { note: describeContest(chosen, context) };
  if (!chosen.isLive)
    return {
      note: `its lease vanished, but ${chosen.mac} still answers there, and not at ${listOf(candidates.filter((each) => each.isLive))}`,
    };
  const passed = candidates.includes(chosen) ? candidates.slice(0, candidates.indexOf(chosen)) : candidates;
  return passed.length === 0
    ? {}
    : { note: `newer lease of ${listOf(passed)} passed over: ${chosen.mac} does not answer there` };
}

function listOf(candidates: readonly Candidate[]): string {
  const shown = candidates.slice(0, 4).map((each) => each.address);
  return shown.join(", ") + (candidates.length > 4 ? ` and ${candidates.length - 4} more` : "");
}

function answerAt({ bridge, address }: Candidate, context: LookupContext): Mac | undefined {
  return context.ask({ bridge, address });
}

function hasAnswered(candidate: Candidate, context: LookupContext): boolean {
  return isGuestMac(answerAt(candidate, context), candidate, context);
}

/** Whether who answers is the guest with this MAC: with it, or with that of another NIC that libvirt has given it there. */
export function isGuestMac(
  answer: Mac | undefined,
  { mac, bridge }: Pick<Candidate, "mac" | "bridge">,
  context: LookupContext,
): boolean {
  if (answer === undefined || answer === mac) return answer === mac;
  return context.networks.some(
    (network) =>
      network.bridge === bridge &&
      network.domains?.some(({ macs }) => macs.includes(mac) && macs.includes(answer)),
  );
}

/** The latest expiry is the newest; a tie goes to the incumbent. */
function newestFirst(one: Lease, other: Lease, incumbent: Incumbent | undefined): number {
  const rank = (lease: Lease): number => lease.expiresAtMs ?? Number.POSITIVE_INFINITY;
  if (rank(one) !== rank(other)) return rank(other) > rank(one) ? 1 : -1;
  if (one.address === incumbent?.address) return -1;
  if (other.address === incumbent?.address) return 1;
  return one.address < other.address ? -1 : 1;
}

/** Addresses that the incumbent had and that it may still have. */
function vanished(
  mac: Mac,
  live: readonly Candidate[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): readonly Candidate[] {
  if (incumbent?.mac !== mac) return [];
  // Past its time a lease does not vanish, it ends.
  const ended = incumbent.expiresAtMs !== undefined && incumbent.expiresAtMs <= context.nowMs;
  const wayBack =
    incumbent.previousAddress !== undefined &&
    context.nowMs - (incumbent.ambiguousSinceMs ?? context.nowMs) < RETURN_MS;
  const { expiresAtMs } = incumbent;
  const expiry = expiresAtMs === undefined ? {} : { expiresAtMs };
  const possible = [
    ...(ended ? [] : [{ address: incumbent.address, ...expiry }]),
    ...(wayBack ? [{ address: incumbent.previousAddress }] : []),
  ];
  return possible
    .filter(({ address }) => live.every((each) => each.address !== address))
    .flatMap((each) =>
      context.networks
        .filter((network) => canHave(mac, each.address, network, context))
        .map(({ bridge }): Candidate => ({ ...each, bridge, mac, isLive: false })),
    );
}

function canHave(mac: Mac, address: Ip, network: Network, context: LookupContext): boolean {
  const { bridge } = network;
  return (
    checkNotOwn(address, context.ownAddresses) === undefined &&
    checkGuestAddress(address, network) === undefined &&
    checkNicBridge({ mac, bridge }, context.nicBridges) === undefined &&
    !leasedByOther({ bridge, address }, mac, context)
  );
}

/** Whether usable leases give its address to more than one MAC. */
function isShared(candidate: Candidate, context: LookupContext): boolean {
  return context.leases.at(candidate).length > 1;
}

/** Whether a live lease on this network gives the address to another MAC. */
function leasedByOther(place: NetworkAddress, mac: Mac | undefined, context: LookupContext): boolean {
  return context.leases.at(place).some((lease) => lease.mac !== mac);
}

/** Whether another MAC has a live lease of the incumbent's address, wherever it can be. */
export function isTaken({ address, mac }: Incumbent, context: LookupContext): boolean {
  const homes = context.networks.filter((each) => checkGuestAddress(address, each) === undefined);
  return homes.length > 0 && homes.every(({ bridge }) => leasedByOther({ bridge, address }, mac, context));
}

function toCandidate({ bridge, address, mac, expiresAtMs }: Lease): Candidate {
  return { bridge, address, mac, isLive: true, ...(expiresAtMs === undefined ? {} : { expiresAtMs }) };
}

function toTarget({ address, mac, expiresAtMs }: Candidate): Target {
  return { address, mac, ...(expiresAtMs === undefined ? {} : { expiresAtMs }) };
}
