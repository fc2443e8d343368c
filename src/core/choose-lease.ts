import type { Ip, Mac } from "./address.ts";
import type { Finding, Holder, Target, World } from "./find-guest.ts";
import { isLive } from "./lease.ts";
import type { Lease } from "./lease.ts";
import { refuseAddress } from "./network.ts";

/*
 * Several live leases of one MAC are normal (PXE, then the installed system), and an attack: a guest may ask for a
 * lease with another's MAC in the payload, or release another's. Who really has a MAC shows in who answers:
 *
 *   candidates: its live leases, the newest first; then the address it had, if that lease vanished before its time
 *
 *   one candidate            -> that one, nobody is asked
 *   some answer with the MAC -> the first of them
 *   none answers             -> the incumbent's, if it has a live lease; else the newest lease
 *
 * An address of which another MAC has a live lease too (forged rows) is a candidate for who answers there; while nobody
 * does, for the incumbent alone.
 */

/** Somebody to be asked whether they have an address. */
export interface Question {
  readonly bridge: string;
  readonly address: Ip;
}

/** Who answered at an address; undefined: nobody did. Addresses that were not asked are missing. */
export type Answers = ReadonlyMap<Ip, Mac | undefined>;

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
  const leased = leases.toSorted((one, other) => newestFirst(one, other, holder)).map(toCandidate);
  const live = leased.filter((each) => mayHave(each, holder, world));
  const candidates = [...live, ...vanished(mac, leased, holder, world)];
  const [newest] = candidates;
  if (newest === undefined) return explainContest(leased, world);
  if (candidates.length === 1 && !world.contested.has(newest.address))
    return { state: "found", lease: toTarget(newest) };
  const answering = candidates.find((each) => hasAnswered(each, world));
  if (answering !== undefined)
    return {
      state: "found",
      lease: toTarget(answering),
      inDoubt: true,
      ...noteOn(answering, candidates, world),
    };
  const incumbent = live.find((each) => each.address === holder?.address);
  const chosen = incumbent ?? newest;
  const left = candidates.find((each) => !each.isLive);
  return {
    state: "found",
    lease: toTarget(chosen),
    inDoubt: true,
    ...(left === undefined ? {} : { left: left.address }),
    ...noteOnSilence(chosen, live, world),
  };
}

function noteOnSilence(
  chosen: Candidate,
  live: readonly Candidate[],
  world: World,
): { readonly note?: string } {
  if (world.contested.has(chosen.address)) return { note: describeContest(chosen, world) };
  if (live.length < 2) return {};
  return { note: `unverified: ${chosen.mac} has ${live.length} live leases and answers at none` };
}

/** Whether an address that is leased to another MAC as well can be this one's. */
function mayHave(candidate: Candidate, holder: Holder | undefined, world: World): boolean {
  const { address, bridge, mac } = candidate;
  if (!world.contested.has(address)) return true;
  const answer = world.ask({ bridge, address });
  return answer === undefined ? holder?.mac === mac && holder.address === address : answer === mac;
}

function explainContest(leased: readonly Candidate[], world: World): Finding {
  const [first] = leased;
  if (first === undefined) throw new Error("chooseLease needs a lease");
  return { state: "contested", why: describeContest(first, world) };
}

function describeContest({ address, bridge, mac }: Candidate, world: World): string {
  const others = world.usable.filter((each) => each.address === address && each.mac !== mac);
  const macs = others.map((each) => each.mac).toSorted();
  const answer = world.ask({ bridge, address }) ?? "nobody";
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
  if (world.contested.has(chosen.address)) return { note: describeContest(chosen, world) };
  if (!chosen.isLive)
    return {
      note: `its lease vanished, but ${chosen.mac} still answers there, and not at ${listOf(candidates.filter((each) => each.isLive))}`,
    };
  const passed = candidates.slice(0, candidates.indexOf(chosen));
  return passed.length === 0
    ? {}
    : { note: `newer lease of ${listOf(passed)} passed over: ${chosen.mac} does not answer there` };
}

function listOf(candidates: readonly Candidate[]): string {
  const shown = candidates.slice(0, 4).map((each) => each.address);
  return shown.join(", ") + (candidates.length > 4 ? ` and ${candidates.length - 4} more` : "");
}

function hasAnswered({ bridge, address, mac }: Candidate, world: World): boolean {
  return world.ask({ bridge, address }) === mac;
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
    .filter(
      ({ address }) => live.every((each) => each.address !== address) && !leasedByOther(address, mac, world),
    )
    .flatMap((each): readonly Candidate[] => {
      const network = world.networks.find((own) => refuseAddress(each.address, own) === undefined);
      return network === undefined ? [] : [{ ...each, bridge: network.bridge, mac, isLive: false }];
    });
}

/** Whether a live lease gives the address to another MAC. */
export function leasedByOther(address: Ip, mac: Mac | undefined, world: World): boolean {
  return world.networks.some((network) =>
    network.leases?.some(
      (lease) => lease.address === address && lease.mac !== mac && isLive(lease, world.nowMs),
    ),
  );
}

function toCandidate({ bridge, address, mac, expiresAtMs }: Lease): Candidate {
  return { bridge, address, mac, isLive: true, ...(expiresAtMs === undefined ? {} : { expiresAtMs }) };
}

function toTarget({ address, mac, expiresAtMs }: Candidate): Target {
  return { address, mac, ...(expiresAtMs === undefined ? {} : { expiresAtMs }) };
}
