import type { Mac } from "../net/address.ts";
import type { NetworkAddress } from "../leases/lease-index.ts";
import { networkAddressKey } from "../leases/lease-index.ts";
import type { Lease } from "../leases/lease.ts";
import { checkNotOwn, networksOf } from "../leases/network.ts";
import { checkNicBridge } from "../leases/nic-bridges.ts";
import type { Incumbent, LookupContext, Target } from "./lookup.ts";
import { MAX_NEWEST_LEASES, rotateCandidates } from "./probe-budget.ts";

/** An address that can be the guest's. */
export interface Candidate extends Target {
  readonly bridge: string;
  readonly mac: Mac;
  /** False: an address of the incumbent without a lease: its own, whose lease vanished early, or that before its last move. */
  readonly isLive: boolean;
}

export interface Candidates {
  /** Live leases, the newest first: those that every pass probes. */
  readonly leased: readonly Candidate[];
  /** Addresses that the incumbent had, without a lease now. */
  readonly former: readonly Candidate[];
  /** Older leases whose turn it is in this pass. */
  readonly inTurn: readonly Candidate[];
  /** Number of live leases, all in all. */
  readonly leaseCount: number;
}

/** Maximum time for which the address before the last move is a candidate while no neighbour answers at the new one. */
const RETURN_MS = 60_000;

/** @param leases the live leases of this MAC */
export function collectCandidates(
  mac: Mac,
  leases: readonly Lease[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): Candidates {
  const sorted = leases.toSorted((one, other) => newestFirst(one, other, incumbent)).map(toCandidate);
  const known = new Set([incumbent?.address, incumbent?.previousAddress]);
  const leased = sorted.filter((each, index) => index < MAX_NEWEST_LEASES || known.has(each.address));
  const older = sorted.filter((each) => !leased.includes(each));
  return {
    leased,
    former: findFormerCandidates(mac, leased, incumbent, context),
    inTurn: rotateCandidates(older, context.nowMs),
    leaseCount: sorted.length,
  };
}

/** The latest expiry is the newest; of equals the incumbent's comes first. */
function newestFirst(one: Lease, other: Lease, incumbent: Incumbent | undefined): number {
  const rank = (lease: Lease): number => lease.expiresAtMs ?? Number.POSITIVE_INFINITY;
  if (rank(one) !== rank(other)) return rank(other) > rank(one) ? 1 : -1;
  if (one.address === incumbent?.address) return -1;
  if (other.address === incumbent?.address) return 1;
  return one.address < other.address ? -1 : 1;
}

function toCandidate({ bridge, address, mac, expiresAtMs }: Lease): Candidate {
  return { bridge, address, mac, expiresAtMs, isLive: true };
}

/** Addresses that the incumbent had and can still have, without those of its live leases. */
function findFormerCandidates(
  mac: Mac,
  leased: readonly Candidate[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): readonly Candidate[] {
  if (incumbent?.mac !== mac) return [];
  const { address, expiresAtMs, previousAddress, recheck } = incumbent;
  // A lease that reached its end has not vanished.
  const hasEnded = expiresAtMs !== undefined && expiresAtMs <= context.nowMs;
  const isRecent = context.nowMs - (recheck?.sinceMs ?? context.nowMs) < RETURN_MS;
  const canReturn = previousAddress !== undefined && isRecent;
  const addresses = [
    ...(hasEnded ? [] : [{ address, expiresAtMs }]),
    ...(canReturn ? [{ address: previousAddress, expiresAtMs: undefined }] : []),
  ];
  return addresses
    .filter((former) => leased.every((each) => each.address !== former.address))
    .flatMap((former) =>
      networksOf(former.address, context.networks).map(({ bridge }) => ({
        ...former,
        bridge,
        mac,
        isLive: false,
      })),
    )
    .filter((each) => isStillFree(each, context));
}

/** Whether the NIC is on that network and the address belongs to neither the host nor another MAC. */
function isStillFree(candidate: Candidate, context: LookupContext): boolean {
  return (
    checkNotOwn(candidate.address, context.ownAddresses) === undefined &&
    checkNicBridge(candidate, context.nicBridges) === undefined &&
    !isLeasedByOther(candidate, candidate.mac, context)
  );
}

/** The incumbent's address, where its lease vanished before its time; empty where it cannot have it any more. */
export function findFormerAddresses(incumbent: Incumbent, context: LookupContext): readonly Candidate[] {
  if (incumbent.mac === undefined) return [];
  return findFormerCandidates(incumbent.mac, [], incumbent, context).filter(
    ({ address }) => address === incumbent.address,
  );
}

/** Whether usable leases give its address to several MACs. */
export function isShared(candidate: Candidate, context: LookupContext): boolean {
  return context.leases.at(candidate).length > 1;
}

function isLeasedByOther(place: NetworkAddress, mac: Mac | undefined, context: LookupContext): boolean {
  return context.leases.at(place).some((lease) => lease.mac !== mac);
}

/** Whether another MAC has a live lease of the incumbent's address, on every network that it can be on. */
export function isTaken({ address, mac }: Incumbent, context: LookupContext): boolean {
  const homes = networksOf(address, context.networks);
  return homes.length > 0 && homes.every(({ bridge }) => isLeasedByOther({ bridge, address }, mac, context));
}

/** The MAC that answers at an address; undefined: none, or it was not probed. */
export function answerAt(place: NetworkAddress, { probeResults }: LookupContext): Mac | undefined {
  return probeResults.get(networkAddressKey(place));
}

/**
 * Whether the guest with this MAC answers at this address: with this MAC, or with that of another of its NICs. On one
 * bridge, Linux answers for all addresses of a guest with any of its NICs.
 */
export function isAnsweredByGuest(
  place: Pick<Candidate, "bridge" | "address" | "mac">,
  context: LookupContext,
): boolean {
  const { mac, bridge } = place;
  const answer = answerAt(place, context);
  if (answer === undefined || answer === mac) return answer === mac;
  const networks = context.networks.filter((network) => network.bridge === bridge);
  const domains = networks.flatMap((network) => network.domains ?? []);
  return domains.some(({ macs }) => macs.includes(mac) && macs.includes(answer));
}
