import type { Ip, Mac } from "../net/address.ts";
import type { Finding, Found, Holder, Target, World } from "./lookup.ts";
import type { Place } from "../leases/lease-index.ts";
import type { Lease } from "../leases/lease.ts";
import { refuseAddress, refuseOwn } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import { refusePlace } from "../leases/nic-bridges.ts";
import { isRestless } from "./flapping.ts";
import { goOn, isDue } from "./recheck.ts";
import { NEWEST, takeTurn } from "./probe-budget.ts";

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
  holder: Holder | undefined,
  world: World,
): Finding {
  const sorted = leases.toSorted((one, other) => newestFirst(one, other, holder)).map(toCandidate);
  const known = new Set([holder?.address, holder?.left]);
  const leased = sorted.filter((each, index) => index < NEWEST || known.has(each.address));
  const live = leased.filter((each) => mayHave(each, holder, world));
  const former = vanished(mac, leased, holder, world);
  const [newest] = live;
  if (newest !== undefined && live.length + former.length === 1 && !isShared(newest, world))
    return judgeOnly(newest, holder, world);
  const candidates = [...live, ...former];
  // Where the forward leads now is asked first: not all questions of a pass may be asked.
  const questions = candidates.toSorted(
    (one, other) => Number(known.has(other.address)) - Number(known.has(one.address)),
  );
  const own = new Set(questions.filter((each) => hasAnswered(each, world)));
  const stay = candidates.find((each) => own.has(each) && each.address === holder?.address);
  if (stay !== undefined && stay !== candidates[0] && isRestless(holder?.movedAtMs, world.nowMs))
    return {
      state: "found",
      lease: toTarget(stay),
      inDoubt: true,
      note: `it moves again and again: kept at ${stay.address} for a minute, as long as it answers there`,
    };
  const answering =
    candidates.find((each) => own.has(each)) ??
    takeTurn(
      sorted.filter((each) => !leased.includes(each)),
      world.nowMs,
    ).find((each) => hasAnswered(each, world));
  if (answering !== undefined)
    return {
      state: "found",
      lease: toTarget(answering),
      inDoubt: true,
      ...noteOn(answering, candidates, world),
    };
  const silent = live.filter((each) => answerAt(each, world) === undefined);
  const chosen = silent.find((each) => each.address === holder?.address) ?? silent[0];
  if (chosen === undefined) return explainRefusal(leased, former, holder, world);
  const [left] = former;
  return {
    state: "found",
    lease: toTarget(chosen),
    inDoubt: true,
    ...(left === undefined ? {} : { left: left.address }),
    ...noteOnSilence(chosen, live, sorted.length, world),
  };
}

/** The only address that can be the guest's: where it leads already it stays; anywhere else another MAC must not answer. */
function judgeOnly(only: Candidate, holder: Holder | undefined, world: World): Finding {
  const found: Found = { state: "found", lease: toTarget(only) };
  const held = holder?.mac === only.mac && holder.address === only.address ? holder : undefined;
  const silence = held?.silence;
  if (held !== undefined && held.inDoubtSinceMs === undefined) {
    if (silence === undefined) return found;
    if (!isDue(silence, world.nowMs)) return { ...found, silence };
  }
  if (answerAt(only, world) === undefined) return { ...found, silence: goOn(silence, world.nowMs) };
  return hasAnswered(only, world) ? found : { state: "contested", why: describeRefusal(only, world) };
}

/** Another MAC answers at each of its leases. Where it led, it may be slow to answer: that is not given up at once. */
function explainRefusal(
  leased: readonly Candidate[],
  former: readonly Candidate[],
  holder: Holder | undefined,
  world: World,
): Finding {
  const [first] = leased;
  if (first === undefined) throw new Error("chooseLease needs a lease");
  const why = describeRefusal(first, world);
  return former.some((each) => each.address === holder?.address)
    ? { state: "vanished", why, askAgain: true }
    : { state: "contested", why };
}

function describeRefusal(candidate: Candidate, world: World): string {
  const { address, mac } = candidate;
  if (isShared(candidate, world)) return describeContest(candidate, world);
  const answer = answerAt(candidate, world) ?? "nobody";
  return `${address} is leased to ${mac}, but ${answer} answers there; a guest that answers with another MAC than it leases with needs \`address\``;
}

function noteOnSilence(
  chosen: Candidate,
  live: readonly Candidate[],
  count: number,
  world: World,
): { readonly note?: string } {
  const { address, mac } = chosen;
  if (isShared(chosen, world)) return { note: describeContest(chosen, world) };
  const refused = live.filter((each) => answerAt(each, world) !== undefined);
  if (refused.length > 0) {
    const answers = new Set(refused.map((each) => answerAt(each, world)));
    const who = answers.size === 1 ? `${[...answers].join("")} answers` : "others answer";
    return {
      note: `unverified: ${mac} does not answer at ${address}; ${listOf(refused)} passed over: ${who} there`,
    };
  }
  if (live.length < 2) return {};
  const which = count > NEWEST ? `none of the ${NEWEST} newest` : "none";
  return { note: `unverified: ${mac} has ${count} live leases and answers at ${which}` };
}

/** Whether an address that is leased to another MAC as well can be this one's. */
function mayHave(candidate: Candidate, holder: Holder | undefined, world: World): boolean {
  const { address, mac } = candidate;
  if (!isShared(candidate, world)) return true;
  const answer = answerAt(candidate, world);
  return answer === undefined
    ? holder?.mac === mac && holder.address === address
    : isGuests(answer, candidate, world);
}

function describeContest(candidate: Candidate, world: World): string {
  const { address, mac } = candidate;
  const others = world.leases.at(candidate).filter((each) => each.mac !== mac);
  const macs = others.map((each) => each.mac).toSorted();
  const answer = answerAt(candidate, world) ?? "nobody";
  return `conflict: ${address} is leased to ${mac} and to ${macs.join(", ")}, and ${answer} answers there`;
}

/** Whether the guest still answers where it was, though its lease vanished before its time and nobody else has it. */
export function stillAnswers(holder: Holder, world: World): boolean {
  const { mac } = holder;
  if (mac === undefined) return false;
  return vanished(mac, [], holder, world).some(
    (each) => each.address === holder.address && hasAnswered(each, world),
  );
}

function noteOn(
  chosen: Candidate,
  candidates: readonly Candidate[],
  world: World,
): { readonly note?: string } {
  if (isShared(chosen, world)) return { note: describeContest(chosen, world) };
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

function answerAt({ bridge, address }: Candidate, world: World): Mac | undefined {
  return world.ask({ bridge, address });
}

function hasAnswered(candidate: Candidate, world: World): boolean {
  return isGuests(answerAt(candidate, world), candidate, world);
}

/** Whether who answers is the guest with this MAC: with it, or with that of another NIC that libvirt has given it there. */
export function isGuests(
  answer: Mac | undefined,
  { mac, bridge }: Pick<Candidate, "mac" | "bridge">,
  world: World,
): boolean {
  if (answer === undefined || answer === mac) return answer === mac;
  return world.networks.some(
    (network) =>
      network.bridge === bridge &&
      network.domains?.some(({ macs }) => macs.includes(mac) && macs.includes(answer)),
  );
}

/** The latest expiry is the newest; a tie goes to the incumbent. */
function newestFirst(one: Lease, other: Lease, holder: Holder | undefined): number {
  const rank = (lease: Lease): number => lease.expiresAtMs ?? Number.POSITIVE_INFINITY;
  if (rank(one) !== rank(other)) return rank(other) > rank(one) ? 1 : -1;
  if (one.address === holder?.address) return -1;
  if (other.address === holder?.address) return 1;
  return one.address < other.address ? -1 : 1;
}

/** Addresses that the incumbent had and that it may still have. */
function vanished(
  mac: Mac,
  live: readonly Candidate[],
  holder: Holder | undefined,
  world: World,
): readonly Candidate[] {
  if (holder?.mac !== mac) return [];
  // Past its time a lease does not vanish, it ends.
  const ended = holder.expiresAtMs !== undefined && holder.expiresAtMs <= world.nowMs;
  const wayBack =
    holder.left !== undefined && world.nowMs - (holder.inDoubtSinceMs ?? world.nowMs) < RETURN_MS;
  const { expiresAtMs } = holder;
  const expiry = expiresAtMs === undefined ? {} : { expiresAtMs };
  const possible = [
    ...(ended ? [] : [{ address: holder.address, ...expiry }]),
    ...(wayBack ? [{ address: holder.left }] : []),
  ];
  return possible
    .filter(({ address }) => live.every((each) => each.address !== address))
    .flatMap((each) =>
      world.networks
        .filter((network) => canHave(mac, each.address, network, world))
        .map(({ bridge }): Candidate => ({ ...each, bridge, mac, isLive: false })),
    );
}

function canHave(mac: Mac, address: Ip, network: Network, world: World): boolean {
  const { bridge } = network;
  return (
    refuseOwn(address, world.own) === undefined &&
    refuseAddress(address, network) === undefined &&
    refusePlace({ mac, bridge }, world.plugs) === undefined &&
    !leasedByOther({ bridge, address }, mac, world)
  );
}

/** Whether usable leases give its address to more than one MAC. */
function isShared(candidate: Candidate, world: World): boolean {
  return world.leases.at(candidate).length > 1;
}

/** Whether a live lease on this network gives the address to another MAC. */
function leasedByOther(place: Place, mac: Mac | undefined, world: World): boolean {
  return world.leases.at(place).some((lease) => lease.mac !== mac);
}

/** Whether another MAC has a live lease of the incumbent's address, wherever it can be. */
export function isTaken({ address, mac }: Holder, world: World): boolean {
  const homes = world.networks.filter((each) => refuseAddress(address, each) === undefined);
  return homes.length > 0 && homes.every(({ bridge }) => leasedByOther({ bridge, address }, mac, world));
}

function toCandidate({ bridge, address, mac, expiresAtMs }: Lease): Candidate {
  return { bridge, address, mac, isLive: true, ...(expiresAtMs === undefined ? {} : { expiresAtMs }) };
}

function toTarget({ address, mac, expiresAtMs }: Candidate): Target {
  return { address, mac, ...(expiresAtMs === undefined ? {} : { expiresAtMs }) };
}
