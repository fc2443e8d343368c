import { answerAt, isShared } from "./candidates.ts";
import type { Candidate } from "./candidates.ts";
import type { LookupContext } from "./lookup.ts";
import { MAX_NEWEST_LEASES } from "./probe-budget.ts";
import { createConflict, createReason } from "./reason.ts";
import type { Reason } from "./reason.ts";

/** Why a candidate at which another MAC answers is not chosen. */
export function describeMismatch(candidate: Candidate, context: LookupContext): Reason {
  const { address, mac } = candidate;
  if (isShared(candidate, context)) return describeConflict(candidate, context);
  const answer = answerAt(candidate, context) ?? "no neighbour";
  return createReason(
    `${address} is leased to ${mac}, but ${answer} answers there; a guest that answers with another MAC than it leases with needs \`address\``,
  );
}

/**
 * What an admin should know of a chosen address at which the guest answers.
 * @param candidates in order of preference
 */
export function describeAnswering(
  chosen: Candidate,
  candidates: readonly Candidate[],
  context: LookupContext,
): Reason | undefined {
  if (isShared(chosen, context)) return describeConflict(chosen, context);
  const { mac } = chosen;
  if (!chosen.isLive) {
    const live = candidates.filter((each) => each.isLive);
    return createReason(
      `its lease vanished, but ${mac} still answers there, and not at ${listAddresses(live)}`,
    );
  }
  const index = candidates.indexOf(chosen);
  const passed = index === -1 ? candidates : candidates.slice(0, index);
  if (passed.length === 0) return undefined;
  return createReason(`newer lease of ${listAddresses(passed)} passed over: ${mac} does not answer there`);
}

/**
 * What an admin should know of a chosen address at which no neighbour answers.
 * @param live the candidates with a live lease
 * @param leaseCount number of the MAC's live leases
 */
export function describeSilent(
  chosen: Candidate,
  live: readonly Candidate[],
  leaseCount: number,
  context: LookupContext,
): Reason | undefined {
  const { address, mac } = chosen;
  if (isShared(chosen, context)) return describeConflict(chosen, context);
  const refused = live.filter((each) => answerAt(each, context) !== undefined);
  if (refused.length > 0) {
    const answers = [...new Set(refused.map((each) => answerAt(each, context)))];
    const answering = answers.length === 1 ? `${answers.join("")} answers` : "others answer";
    return createReason(
      `unverified: ${mac} does not answer at ${address}; ${listAddresses(refused)} passed over: ${answering} there`,
    );
  }
  if (live.length < 2) return undefined;
  const which = leaseCount > MAX_NEWEST_LEASES ? `none of the ${MAX_NEWEST_LEASES} newest` : "none";
  return createReason(`unverified: ${mac} has ${leaseCount} live leases and answers at ${which}`);
}

function describeConflict(candidate: Candidate, context: LookupContext): Reason {
  const { address, mac } = candidate;
  const others = context.leases.at(candidate).filter((each) => each.mac !== mac);
  const macs = others.map((each) => each.mac).toSorted();
  const answer = answerAt(candidate, context) ?? "no neighbour";
  return createConflict(
    `${address} is leased to ${mac} and to ${macs.join(", ")}, and ${answer} answers there`,
  );
}

function listAddresses(candidates: readonly Candidate[]): string {
  const shown = candidates.slice(0, 4).map(({ address }) => address);
  return shown.join(", ") + (candidates.length > 4 ? ` and ${candidates.length - 4} more` : "");
}
