import { isDeepStrictEqual } from "node:util";
import type { Family } from "../net/address.ts";
import { isBackedOff, nextTryMs, NO_REPAIRS, recordRepairs } from "../rules/repair-limit.ts";
import type { RepairHistory } from "../rules/repair-limit.ts";
import { findFlushedBridges, trackLibvirtRules } from "../libvirt/flushed-rules.ts";
import type { BridgeWithLibvirtRules } from "../libvirt/flushed-rules.ts";
import { findMissingJump } from "../libvirt/missing-jump.ts";
import {
  buildAuditEntries,
  describeFailures,
  describeGuests,
  describeIncumbents,
} from "../log/audit-entries.ts";
import type { LogEntry, LoggedGuests } from "../log/audit-entries.ts";
import type { Desired, Jump, Variant } from "../rules/ruleset.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host } from "../host-interface.ts";
import { removeStaleFlows, startFlowState } from "./remove-stale-flows.ts";
import type { FlowState } from "./remove-stale-flows.ts";
import { applyRuleset, notApplied, removeOwnedRules } from "./apply.ts";
import { observe } from "./observe.ts";
import type { FamilyView, ObservationState, View } from "./observe.ts";
import {
  describeOverriddenJump,
  failingGuests,
  findWaits,
  inputProblems,
  describeApplyErrors,
  rejectsElsewhere,
  checkShadowingRules,
  describeOverriddenGuard,
} from "./problems.ts";
import type { SideOutcome } from "./problems.ts";
import { closeLoopback, setSysctls } from "./sysctls.ts";
import type { Diagnostic } from "../diagnostic.ts";
import type { FamilyChange } from "../rules/diff.ts";

/** What one pass hands to the next. */
export interface PassState extends ObservationState {
  /** What the pass before it wanted, and got: when the kernel differs from it, somebody else was there. */
  readonly wanted?: Wanted;
  readonly told?: LoggedGuests;
  readonly flows?: FlowState;
  /** Whom we repaired after lately, by family. */
  readonly contests?: ReadonlyMap<Family, RepairHistory>;
  /** Bridges for which libvirt has, or had, rules since this daemon started. */
  readonly bridgesWithLibvirtRules?: readonly BridgeWithLibvirtRules[];
}

interface Wanted {
  readonly variant: Variant | undefined;
  readonly desired: readonly Desired[];
}

/** Rules and chains that a pass put into the kernel and took out of it. */
interface Work {
  readonly added: number;
  readonly removed: number;
  /** Those among them that nothing but another program had made necessary. */
  readonly healed: number;
}

export interface PassResult {
  readonly view: View;
  readonly memory: PassState;
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Diagnostic[];
  /** Guests whose rules are not in the kernel, with the reason. */
  readonly failing: ReadonlyMap<string, string>;
  /** Forwards that rules of others leave nothing of, with the reason. */
  readonly taken: ReadonlyMap<ResolvedForward, string>;
  /** The kernel was not as it should be. */
  readonly changed: boolean;
  readonly work: Work;
  /** Something could not be done that may work later. */
  readonly failed: boolean;
  /** When time alone will change the outcome, epoch ms. */
  readonly wakeAtMs?: number;
}

/**
 * The pass: read -> desired -> diff -> plan -> apply -> verify -> record. There is no other way to the kernel.
 * @param trigger what made it run, for the log
 * @throws what {@link observe} throws; failures to change the kernel are in the result
 */
export async function reconcile(
  host: Host,
  memory: PassState,
  pass: number,
  trigger: string,
  lingers = true,
): Promise<PassResult> {
  const view = await observe(host, memory, lingers);
  const closing = await closeFirst(host, view);
  const outcomes = await applyAll(host, closing.families, memory.contests ?? new Map());
  const contests = recordContests(outcomes, memory.contests ?? new Map(), host.now());
  const guards = contestedGuards(view, contests);
  const sysctls = await setSysctls(host, view, isInPlace(outcomes), guards);
  const changes = outcomes.flatMap(({ family, outcome }) =>
    outcome.applied.map((change): FamilyChange => ({ family, change })),
  );
  const flows = await removeStaleFlows(host, view, changes, memory.flows ?? startFlowState());
  const bridgesWithLibvirtRules = trackLibvirtRules(
    memory.bridgesWithLibvirtRules ?? [],
    actualOf(view),
    view.links.indexes,
    host.now(),
  );
  const flushed = findFlushedBridges(bridgesWithLibvirtRules, host.now());
  const before = memory.told ?? describeIncumbents(view.incumbents);
  const failing = failingGuests(view, outcomes);
  const foreign = checkShadowingRules(view, outcomes);
  const told = describeFailures(describeGuests(view.resolution.forwards), before, failing);
  // What could not be read once is not forgotten: the name that a guest holds must not be free for the taking.
  const isKnown = memory.incumbents !== undefined || view.families[0]?.sides.length !== 0;
  const wanted: Wanted = {
    variant: view.tool?.variant,
    desired: view.families.map(({ desired }) => desired),
  };
  const failed = outcomes.some(({ outcome }) => outcome.errors.length > 0) || sysctls.failed;
  return {
    view,
    memory: {
      snapshot: view.snapshot,
      ...(view.refused === undefined ? {} : { refused: view.refused }),
      links: view.links,
      ...(isKnown ? { incumbents: view.resolution.incumbents } : {}),
      variants: new Set([
        ...(memory.variants ?? []),
        ...(view.tool === undefined ? [] : [view.tool.variant]),
      ]),
      told,
      ...(failed ? {} : { wanted }),
      flows: flows.state,
      contests,
      bridgesWithLibvirtRules,
    },
    entries: [
      ...buildAuditEntries(before, told, changes, trigger, pass),
      ...closing.entries,
      ...sysctls.entries,
      ...flows.entries,
    ],
    problems: [
      ...inputProblems(view),
      ...findWaits(host, view),
      ...view.families.flatMap(({ sides: [used] }) => findMissingJump(used?.actual)),
      ...flushed.problems,
      ...foreign.problems,
      ...view.families.flatMap((each) => rejectsElsewhere(view, each)),
      ...outcomes.flatMap(describeApplyErrors),
      ...outcomes.flatMap(describeOverriddenJump),
      ...guards.map((guard) => describeOverriddenGuard(guard, outcomes)),
      ...sysctls.problems,
      ...flows.problems,
    ],
    failing,
    taken: foreign.taken,
    changed: changes.length > 0,
    work: countWork(changes, wanted, memory.wanted),
    failed,
    ...wakeAt(view, contests, [flows, flushed]),
  };
}

function countWork(changes: readonly FamilyChange[], wanted: Wanted, before: Wanted | undefined): Work {
  const added = changes.filter(({ change: { kind } }) => kind === "add" || kind === "create-chain").length;
  const drifted = changes.length > 0 && before !== undefined && isDeepStrictEqual(wanted, before);
  return { added, removed: changes.length - added, healed: drifted ? changes.length : 0 };
}

function actualOf(view: View): Parameters<typeof trackLibvirtRules>[1] {
  return new Map(view.families.map(({ family, sides }) => [family, sides.map(({ actual }) => actual)]));
}

/** Where a bridge that is open for 127.0.0.1 cannot be closed, the rules that guard it stay. */
async function closeFirst(
  host: Host,
  view: View,
): Promise<{ readonly entries: readonly LogEntry[]; readonly families: readonly FamilyView[] }> {
  try {
    return { entries: await closeLoopback(host, view), families: view.families };
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    const families = view.families.map((each) => (each.family === 4 ? { ...each, error } : each));
    return { entries: [], families };
  }
}

function isInPlace(outcomes: readonly SideOutcome[]): boolean {
  return outcomes.every(({ family, outcome }) => family !== 4 || outcome.errors.length === 0);
}

type ContestsByFamily = ReadonlyMap<Family, RepairHistory>;

async function applyAll(
  host: Host,
  families: readonly FamilyView[],
  contests: ContestsByFamily,
): Promise<readonly SideOutcome[]> {
  const perFamily = await Promise.all(
    families.map((each) => applyFamily(host, each, contests.get(each.family))),
  );
  return perFamily.flat();
}

async function applyFamily(
  host: Host,
  view: FamilyView,
  contests: RepairHistory | undefined,
): Promise<readonly SideOutcome[]> {
  const { family, desired, error } = view;
  if (error !== undefined) return [{ family, outcome: notApplied(error) }];
  const [used, ...others] = view.sides;
  const outcomes: SideOutcome[] = [];
  try {
    if (used !== undefined)
      outcomes.push({ family, outcome: await applyRuleset(host, used, desired, contests) });
    // Ours in the variant that is not in use are left over from before the config was changed.
    // They do their work until the others do.
    const isThere = outcomes.every(({ outcome }) => outcome.errors.length === 0);
    if (isThere)
      for (const other of others) outcomes.push({ family, outcome: await removeOwnedRules(host, other) });
  } catch (failure) {
    if (!(failure instanceof KvmnatdError)) throw failure;
    outcomes.push({ family, outcome: notApplied(failure) });
  }
  return outcomes;
}

function recordContests(
  outcomes: readonly SideOutcome[],
  contests: ContestsByFamily,
  nowMs: number,
): ContestsByFamily {
  const next = new Map(contests);
  for (const { family, outcome } of outcomes)
    next.set(family, recordRepairs(next.get(family) ?? NO_REPAIRS, outcome, nowMs));
  return next;
}

/** Guards of 127.0.0.1 that others keep from their place. */
function contestedGuards(view: View, contests: ContestsByFamily): readonly Jump[] {
  return view.families.flatMap(({ family, desired }) =>
    desired.jumps.filter(
      (jump) =>
        jump.mustPrecedeAcceptsFor !== undefined && isBackedOff(contests.get(family) ?? NO_REPAIRS, jump),
    ),
  );
}

function wakeAt(
  view: View,
  contests: ContestsByFamily,
  others: readonly { readonly wakeAtMs?: number | undefined }[],
): { readonly wakeAtMs?: number } {
  const tries = [...contests.values()].map(nextTryMs);
  const waits = [view.resolution.wakeAtMs, view.lookAgainAtMs, ...others.map(({ wakeAtMs }) => wakeAtMs)];
  const times = [...waits, ...tries].filter((time) => time !== undefined);
  return times.length === 0 ? {} : { wakeAtMs: Math.min(...times) };
}
