import type { Family } from "../net/address.ts";
import { isBackedOff, NO_REPAIRS, recordRepairs } from "../rules/repair-limit.ts";
import type { RepairHistory } from "../rules/repair-limit.ts";
import type { LogEntry } from "../log/audit-entries.ts";
import type { Jump } from "../rules/ruleset.ts";
import type { Host } from "../host-interface.ts";
import { removeStaleFlows } from "./remove-stale-flows.ts";
import type { FlowState } from "./remove-stale-flows.ts";
import { applyRuleset, notApplied, removeOwnedRules, verifyEarlier } from "./apply.ts";
import type { FamilyView, View } from "./observe.ts";
import { closeLoopback, setSysctls } from "./sysctls.ts";
import type { Diagnostic } from "../diagnostic.ts";
import type { FamilyChange } from "../rules/diff.ts";
import type { BackendOutcome, UnverifiedChanges } from "./apply.ts";

/** What a pass did to the host. */
export interface Applied {
  readonly outcomes: readonly BackendOutcome[];
  /** Changes of the rules that the kernel has taken, those of a pass before that could not verify them as well. */
  readonly changes: readonly FamilyChange[];
  readonly unverified: readonly UnverifiedChanges[];
  readonly repairs: RepairsByFamily;
  /** Guards of 127.0.0.1 that another program keeps from their position. */
  readonly overriddenGuards: readonly Jump[];
  readonly flows: Awaited<ReturnType<typeof removeStaleFlows>>;
  readonly sysctlProblems: readonly Diagnostic[];
  /** For the log, without the changes of the rules. */
  readonly entries: readonly LogEntry[];
  readonly failed: boolean;
}

/** What the last pass hands to {@link applyPass}. */
interface AppliedBefore {
  readonly unverified: readonly UnverifiedChanges[];
  readonly repairs: RepairsByFamily;
  readonly flows: FlowState;
}

/**
 * Changes the host. The order matters: kvmnatd closes a bridge for 127.0.0.1 before it removes the bridge's guard, and it
 * enables routing after the rules are in place.
 */
export async function applyPass(host: Host, view: View, before: AppliedBefore): Promise<Applied> {
  const closing = await closeFirst(host, view);
  const outcomes = await applyAll(host, closing.families, before.repairs);
  const repairs = recordAllRepairs(outcomes, before.repairs, host.now());
  const guards = findOverriddenGuards(view, repairs);
  const sysctls = await setSysctls(host, view, isInPlace(outcomes), guards);
  const earlier = verifyEarlier(before.unverified, view.families);
  const applied = outcomes.flatMap(({ family, outcome }) =>
    outcome.applied.map((change): FamilyChange => ({ family, change })),
  );
  const changes = [...earlier.taken, ...applied];
  const flows = await removeStaleFlows(host, view, changes, before.flows);
  return {
    outcomes,
    changes,
    unverified: [...earlier.unverified, ...outcomes.flatMap(({ outcome }) => outcome.unverified ?? [])],
    repairs,
    overriddenGuards: guards,
    flows,
    sysctlProblems: sysctls.problems,
    entries: [...closing.entries, ...sysctls.entries, ...flows.entries],
    failed: outcomes.some(({ outcome }) => outcome.errors.length > 0) || sysctls.failed,
  };
}

/**
 * Closes the bridges on which the config stopped publishing 127.0.0.1. If that fails, the pass changes no IPv4 rules,
 * because the guards of these bridges must stay.
 */
async function closeFirst(
  host: Host,
  view: View,
): Promise<{ readonly entries: readonly LogEntry[]; readonly families: readonly FamilyView[] }> {
  const { entries, error } = await closeLoopback(host, view);
  if (error === undefined) return { entries, families: view.families };
  return { entries, families: view.families.map((each) => (each.family === 4 ? { ...each, error } : each)) };
}

function isInPlace(outcomes: readonly BackendOutcome[]): boolean {
  return outcomes.every(({ family, outcome }) => family !== 4 || outcome.errors.length === 0);
}

async function applyAll(
  host: Host,
  families: readonly FamilyView[],
  repairs: RepairsByFamily,
): Promise<readonly BackendOutcome[]> {
  const perFamily = await Promise.all(
    families.map((each) => applyFamily(host, each, repairs.get(each.family))),
  );
  return perFamily.flat();
}

async function applyFamily(
  host: Host,
  view: FamilyView,
  repairs: RepairHistory | undefined,
): Promise<readonly BackendOutcome[]> {
  const { family, desired, error } = view;
  if (error !== undefined) return [{ family, outcome: notApplied(error) }];
  const [used, ...others] = view.backends;
  const outcomes: BackendOutcome[] = [];
  if (used !== undefined)
    outcomes.push({ family, outcome: await applyRuleset(host, used, desired, repairs) });
  // Our rules in the other variant are left from before a change of the config. They stay until the new ones work.
  if (outcomes.some(({ outcome }) => outcome.errors.length > 0)) return outcomes;
  for (const other of others) outcomes.push({ family, outcome: await removeOwnedRules(host, other) });
  return outcomes;
}

function recordAllRepairs(
  outcomes: readonly BackendOutcome[],
  repairs: RepairsByFamily,
  nowMs: number,
): RepairsByFamily {
  const next = new Map(repairs);
  for (const { family, outcome } of outcomes)
    next.set(family, recordRepairs(next.get(family) ?? NO_REPAIRS, outcome, nowMs));
  return next;
}

function findOverriddenGuards(view: View, repairs: RepairsByFamily): readonly Jump[] {
  return view.families.flatMap(({ family, desired }) =>
    desired.jumps.filter(
      (jump) =>
        jump.mustPrecedeAcceptsFor !== undefined && isBackedOff(repairs.get(family) ?? NO_REPAIRS, jump),
    ),
  );
}

/** The repairs of the last minute. */
export type RepairsByFamily = ReadonlyMap<Family, RepairHistory>;
