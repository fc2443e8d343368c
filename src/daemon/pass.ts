import { isDeepStrictEqual } from "node:util";
import { findEarliest } from "../earliest.ts";
import { nextTryMs } from "../rules/repair-limit.ts";
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
import type { Desired, Variant } from "../rules/ruleset.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import type { Host } from "../host-interface.ts";
import { startFlowState } from "./remove-stale-flows.ts";
import type { FlowState } from "./remove-stale-flows.ts";
import { NOTHING_OBSERVED, observe } from "./observe.ts";
import type { ObservationState, View } from "./observe.ts";
import {
  describeOverriddenJump,
  findFailingGuests,
  findWaits,
  collectInputProblems,
  describeApplyErrors,
  checkOtherVariant,
  checkShadowingRules,
  describeOverriddenGuard,
} from "./problems.ts";
import type { Diagnostic } from "../diagnostic.ts";
import type { FamilyChange } from "../rules/diff.ts";
import type { UnverifiedChanges } from "./apply.ts";
import type { Applied, RepairsByFamily } from "./apply-pass.ts";
import { applyPass } from "./apply-pass.ts";

/** What one pass hands to the next. */
export interface PassState extends ObservationState {
  /** What the last pass wanted and achieved: when the kernel differs from it, another program has changed the rules. */
  readonly wanted: Wanted | undefined;
  /** What the log says of each guest. */
  readonly logged: LoggedGuests | undefined;
  readonly flows: FlowState;
  readonly repairs: RepairsByFamily;
  readonly unverified: readonly UnverifiedChanges[];
  /** Bridges for which libvirt has, or had, rules since this daemon started. */
  readonly bridgesWithLibvirtRules: readonly BridgeWithLibvirtRules[];
}

/** Before the first pass. */
export const FIRST_PASS_STATE: PassState = {
  ...NOTHING_OBSERVED,
  wanted: undefined,
  logged: undefined,
  flows: startFlowState(),
  repairs: new Map(),
  unverified: [],
  bridgesWithLibvirtRules: [],
};

interface Wanted {
  readonly variant: Variant | undefined;
  readonly desired: readonly Desired[];
}

/** Number of rules and chains that a pass added to the kernel and removed from it. */
interface Work {
  readonly added: number;
  readonly removed: number;
  /** Number of these changes that repaired what another program had changed. */
  readonly healed: number;
}

export interface PassResult {
  readonly view: View;
  readonly memory: PassState;
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Diagnostic[];
  /** Why the rules of these guests are not in the kernel, by {@link guestKey}. */
  readonly failing: ReadonlyMap<string, string>;
  /** Why no packets reach these forwards: a foreign rule takes their port first. */
  readonly taken: ReadonlyMap<ResolvedForward, string>;
  /** Whether the kernel differed from what is desired. */
  readonly changed: boolean;
  readonly work: Work;
  /** Whether something failed that may succeed later. */
  readonly failed: boolean;
  /** When the outcome may change without any event, epoch ms. */
  readonly wakeAtMs: number | undefined;
}

/** Why a pass is made. */
interface PassRequest {
  readonly number: number;
  /** What caused it, for the log. */
  readonly trigger: string;
  /** False: a forward whose lease vanished goes at once, because no later pass of this process would remove it. */
  readonly lingers: boolean;
}

/**
 * The pass: read -> locate guests -> desired -> diff -> apply -> verify -> stale connections. In the daemon, only
 * a pass writes to the kernel. `kvmnatd apply` and `kvmnatd teardown` can run beside it; they warn.
 * @throws what {@link observe} throws; failures to change the kernel are in the result
 */
export async function reconcile(host: Host, state: PassState, request: PassRequest): Promise<PassResult> {
  const view = await observe(host, state, request.lingers);
  const applied = await applyPass(host, view, state);
  const { outcomes, changes, failed } = applied;
  const libvirt = checkLibvirtRules(host, state, view);
  const shadowing = checkShadowingRules(view, outcomes);
  const failing = findFailingGuests(view, outcomes);
  const before = state.logged ?? describeIncumbents(view.incumbents);
  const logged = describeFailures(describeGuests(view.resolution.forwards), before, failing);
  const wanted: Wanted = {
    variant: view.tool?.variant,
    desired: view.families.map(({ desired }) => desired),
  };
  return {
    view,
    memory: {
      ...toObservationState(state, view),
      logged,
      wanted: failed ? undefined : wanted,
      flows: applied.flows.state,
      repairs: applied.repairs,
      unverified: applied.unverified,
      bridgesWithLibvirtRules: libvirt.bridges,
    },
    entries: [...buildAuditEntries({ before, now: logged, changes }, request), ...applied.entries],
    problems: collectProblems(host, view, applied, [...libvirt.flushed.problems, ...shadowing.problems]),
    failing,
    taken: shadowing.taken,
    changed: changes.length > 0,
    work: countWork(changes, wanted, state.wanted),
    failed,
    wakeAtMs: findEarliest([
      view.resolution.wakeAtMs,
      view.lookAgainAtMs,
      applied.flows.wakeAtMs,
      libvirt.flushed.wakeAtMs,
      ...[...applied.repairs.values()].map(nextTryMs),
    ]),
  };
}

interface LibvirtCheck {
  readonly bridges: readonly BridgeWithLibvirtRules[];
  readonly flushed: ReturnType<typeof findFlushedBridges>;
}

function checkLibvirtRules(host: Host, state: PassState, view: View): LibvirtCheck {
  const actual = new Map(
    view.families.map(({ family, backends }) => [family, backends.map((each) => each.actual)]),
  );
  const bridges = trackLibvirtRules(state.bridgesWithLibvirtRules, actual, view.links.indexes, host.now());
  return { bridges, flushed: findFlushedBridges(bridges, host.now()) };
}

function toObservationState(state: PassState, view: View): ObservationState {
  const { tool, families } = view;
  // Incumbents are kept when the kernel cannot be read: another guest must not take over their names meanwhile.
  const isKnown = state.incumbents !== undefined || families[0]?.backends.length !== 0;
  return {
    snapshot: view.snapshot,
    links: view.links,
    incumbents: isKnown ? view.resolution.incumbents : undefined,
    variants: new Set([...state.variants, ...(tool === undefined ? [] : [tool.variant])]),
    linksAreCurrent: false,
    onlyRules: undefined,
  };
}

/** @param found by the checks of foreign rules */
function collectProblems(
  host: Host,
  view: View,
  { outcomes, overriddenGuards: guards, sysctlProblems, flows }: Applied,
  found: readonly Diagnostic[],
): readonly Diagnostic[] {
  return [
    ...collectInputProblems(view),
    ...findWaits(host, view),
    ...view.families.flatMap(({ backends: [used] }) => findMissingJump(used?.actual)),
    ...found,
    ...view.families.flatMap((each) => checkOtherVariant(view, each)),
    ...outcomes.flatMap(describeApplyErrors),
    ...outcomes.flatMap(describeOverriddenJump),
    ...guards.map((guard) => describeOverriddenGuard(guard, outcomes)),
    ...sysctlProblems,
    ...flows.problems,
  ];
}

function countWork(changes: readonly FamilyChange[], wanted: Wanted, before: Wanted | undefined): Work {
  const added = changes.filter(({ change: { kind } }) => kind === "add" || kind === "create-chain").length;
  const drifted = changes.length > 0 && before !== undefined && isDeepStrictEqual(wanted, before);
  return { added, removed: changes.length - added, healed: drifted ? changes.length : 0 };
}
