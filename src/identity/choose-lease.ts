import type { Mac } from "../net/address.ts";
import type { NeighbourProbe, LookupResult, Found, Incumbent, Located, LookupContext } from "./lookup.ts";
import { createFound } from "./lookup.ts";
import type { Lease } from "../leases/lease.ts";
import { answerAt, collectCandidates, isAnsweredByGuest, isShared } from "./candidates.ts";
import type { Candidate, Candidates } from "./candidates.ts";
import { describeAnswering, describeMismatch, describeSilent } from "./describe-choice.ts";
import { isFlapping } from "./flapping.ts";
import { createReason } from "./reason.ts";
import { isDue } from "./recheck.ts";

/*
 * Several live leases of one MAC are normal (PXE, then the installed system). They are also an attack: a guest can
 * request a lease with another's MAC in the payload, or release another's lease. Probes show which guest has a MAC.
 *
 *   candidates: the MAC's live leases, the newest first; then the incumbent's address, if its lease vanished early
 *
 *   one candidate   | the incumbent's, verified before -> it, without a probe
 *                   | the guest answers                -> it
 *                   | no neighbour answers             -> it, probed again
 *                   | another MAC answers              -> none
 *   several         | the guest moved 6 times a minute -> the incumbent's address, if the guest answers there
 *                   | the guest answers at some        -> the first of them
 *                   | no neighbour answers at some     -> the incumbent's, if its lease is live; else the newest
 *                   | another MAC answers at each      -> none; the incumbent's address lingers if its lease vanished
 *
 * If two MACs lease one address (a forged row), the MAC that answers there gets it. While neither answers, only the
 * incumbent may keep it.
 */

/**
 * Chooses the address of a guest's NIC among its leases.
 * @param leases the live leases of this MAC, at least one
 */
export function chooseLease(
  mac: Mac,
  leases: readonly Lease[],
  incumbent: Incumbent | undefined,
  context: LookupContext,
): Located {
  const candidates = collectCandidates(mac, leases, incumbent, context);
  const { leased, former } = candidates;
  const [only] = leased;
  if (only === undefined) throw new Error("chooseLease needs a lease");
  if (leased.length + former.length === 1 && !isShared(only, context))
    return judgeOnly(only, incumbent, context);
  const probes = probesFor(candidates, incumbent);
  const result =
    pickAnswering(candidates, incumbent, context) ??
    pickSilent(candidates, incumbent, context) ??
    explainMismatch(candidates, incumbent, context);
  return { ...result, probes };
}

/** The incumbent's addresses first: the probes of a pass are limited. */
function probesFor(
  { leased, former, inTurn }: Candidates,
  incumbent: Incumbent | undefined,
): readonly NeighbourProbe[] {
  const known = new Set([incumbent?.address, incumbent?.previousAddress]);
  const all = [...leased, ...former];
  const isKnown = ({ address }: Candidate): boolean => known.has(address);
  const first = all.filter(isKnown);
  const others = all.filter((each) => !isKnown(each));
  return [...first, ...others, ...inTurn].map(toProbe);
}

function toProbe({ bridge, address }: Candidate): NeighbourProbe {
  return { bridge, address };
}

/** The only candidate. As an incumbent that was verified once it stays without a probe. */
function judgeOnly(only: Candidate, incumbent: Incumbent | undefined, context: LookupContext): Located {
  const isIncumbent = incumbent?.mac === only.mac && incumbent.address === only.address;
  const { recheck } = isIncumbent ? incumbent : {};
  if (isIncumbent && recheck === undefined) return { ...createFound(only), probes: [] };
  if (recheck?.doubt === "silent" && !isDue(recheck, context.nowMs))
    return { ...createFound(only, { doubt: "silent" }), probes: [] };
  const probes = [toProbe(only)];
  if (answerAt(only, context) === undefined) return { ...createFound(only, { doubt: "silent" }), probes };
  if (isAnsweredByGuest(only, context)) return { ...createFound(only), probes };
  return { state: "mac-mismatch", why: describeMismatch(only, context), probes };
}

function pickAnswering(
  { leased, former, inTurn }: Candidates,
  incumbent: Incumbent | undefined,
  context: LookupContext,
): Found | undefined {
  const possible = [...leased.filter((each) => isEligible(each, incumbent, context)), ...former];
  const answering = possible.filter((each) => isAnsweredByGuest(each, context));
  const current = answering.find(({ address }) => address === incumbent?.address);
  const isMove = current !== undefined && current !== possible[0];
  if (isMove && isFlapping(incumbent?.recentMovesAtMs ?? [], context.nowMs)) {
    const text = `it moves again and again: kept at ${current.address} for a minute, as long as it answers there`;
    return createFound(current, { doubt: "ambiguous", note: createReason(text) });
  }
  const chosen = answering[0] ?? inTurn.find((each) => isAnsweredByGuest(each, context));
  if (chosen === undefined) return undefined;
  return createFound(chosen, { doubt: "ambiguous", note: describeAnswering(chosen, possible, context) });
}

function pickSilent(
  { leased, former: [left], leaseCount }: Candidates,
  incumbent: Incumbent | undefined,
  context: LookupContext,
): Found | undefined {
  const live = leased.filter((each) => isEligible(each, incumbent, context));
  const silent = live.filter((each) => answerAt(each, context) === undefined);
  const chosen = silent.find(({ address }) => address === incumbent?.address) ?? silent[0];
  if (chosen === undefined) return undefined;
  const note = describeSilent(chosen, live, leaseCount, context);
  return createFound(chosen, { doubt: "ambiguous", note, previousAddress: left?.address });
}

/** Whether an address can be this MAC's though another MAC may lease it, too. */
function isEligible(candidate: Candidate, incumbent: Incumbent | undefined, context: LookupContext): boolean {
  if (!isShared(candidate, context)) return true;
  const { address, mac } = candidate;
  return answerAt(candidate, context) === undefined
    ? incumbent?.mac === mac && incumbent.address === address
    : isAnsweredByGuest(candidate, context);
}

/**
 * Another MAC answers at each lease. If the lease of the incumbent's address vanished, that address lingers: the guest may
 * be slow to answer there. An incumbent with a live lease is a mismatch too.
 */
function explainMismatch(
  { leased: [newest], former }: Candidates,
  incumbent: Incumbent | undefined,
  context: LookupContext,
): LookupResult {
  const why = newest === undefined ? createReason("no lease") : describeMismatch(newest, context);
  return former.some(({ address }) => address === incumbent?.address)
    ? { state: "lease-missing", why, isContested: true }
    : { state: "mac-mismatch", why };
}
