import type { Family } from "../core/address.ts";
import { nextTryMs, recordMoves } from "../core/contest.ts";
import type { Contests } from "../core/contest.ts";
import { findBlocker } from "../core/diff.ts";
import { findMissingJump, findRejectElsewhere } from "../core/libvirt-rules.ts";
import { narrate, ownerOfChange, tellFailures, tellGuests, tellHolders } from "../core/narrate.ts";
import type { FamilyChange, LogEntry, ToldByGuest } from "../core/narrate.ts";
import { ownerName } from "../core/owner.ts";
import { printable } from "../core/printable.ts";
import type { Problem } from "../core/status.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host } from "../ports.ts";
import { cleanFlows } from "./flows.ts";
import type { Cleaning, FlowMemory } from "./flows.ts";
import { applyTo, clear, NOTHING_DONE } from "./kernel.ts";
import type { Outcome } from "./kernel.ts";
import { observe } from "./observe.ts";
import type { FamilyView, Memory, View } from "./observe.ts";
import { setSysctls } from "./sysctls.ts";

/** What one pass hands to the next. */
export interface PassMemory extends Memory {
  readonly told?: ToldByGuest;
  readonly flows?: FlowMemory;
  /** Whom we repaired after lately, by family. */
  readonly contests?: ReadonlyMap<Family, Contests>;
}

export interface PassResult {
  readonly view: View;
  readonly memory: PassMemory;
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Problem[];
  /** Guests whose rules are not in the kernel, with the reason. */
  readonly failing: ReadonlyMap<string, string>;
  /** The kernel was not as it should be. */
  readonly changed: boolean;
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
  memory: PassMemory,
  pass: number,
  trigger: string,
  lingers = true,
): Promise<PassResult> {
  const view = await observe(host, memory, lingers);
  const outcomes = await applyAll(host, view, memory.contests ?? new Map());
  const sysctls = await setSysctls(host, view, isInPlace(outcomes));
  const changes = outcomes.flatMap(({ family, outcome }) =>
    outcome.applied.map((change): FamilyChange => ({ family, change })),
  );
  const flows = await cleanFlows(host, view, changes, memory.flows ?? { leads: [] });
  const contests = recordContests(outcomes, memory.contests ?? new Map(), host.now());
  const before = memory.told ?? tellHolders(view.incumbents);
  const failing = failingGuests(view, outcomes);
  const told = tellFailures(tellGuests(view.resolution.forwards), before, failing);
  // What could not be read once is not forgotten: the name that a guest holds must not be free for the taking.
  const isKnown = memory.holders !== undefined || view.families[0]?.sides.length !== 0;
  return {
    view,
    memory: {
      snapshot: view.snapshot,
      links: view.links,
      ...(isKnown ? { holders: view.resolution.holders } : {}),
      told,
      flows: flows.memory,
      contests,
    },
    entries: [...narrate(before, told, changes, trigger, pass), ...sysctls.entries, ...flows.entries],
    problems: [
      ...inputProblems(view),
      ...waitingFor(host, view),
      ...view.families.flatMap(({ sides: [used] }) => findMissingJump(used?.actual)),
      ...view.families.flatMap((each) => rejectsElsewhere(view, each)),
      ...outcomes.flatMap(problemOf),
      ...outcomes.flatMap((each) => contestOf(view, each)),
      ...sysctls.problems,
      ...flows.problems,
    ],
    failing,
    changed: changes.length > 0,
    failed: outcomes.some(({ outcome }) => outcome.error !== undefined) || sysctls.problems.length > 0,
    ...wakeAt(view, outcomes, contests, flows),
  };
}

function isInPlace(outcomes: readonly SideOutcome[]): boolean {
  return outcomes.every(({ family, outcome }) => family !== 4 || outcome.error === undefined);
}

interface SideOutcome {
  readonly family: Family;
  readonly outcome: Outcome;
}

type ContestsByFamily = ReadonlyMap<Family, Contests>;

async function applyAll(host: Host, view: View, contests: ContestsByFamily): Promise<readonly SideOutcome[]> {
  const perFamily = await Promise.all(
    view.families.map((each) => applyFamily(host, each, contests.get(each.family))),
  );
  return perFamily.flat();
}

async function applyFamily(
  host: Host,
  view: FamilyView,
  contests: Contests | undefined,
): Promise<readonly SideOutcome[]> {
  const { family, desired, error } = view;
  if (error !== undefined) return [{ family, outcome: { ...NOTHING_DONE, error } }];
  const [used, ...others] = view.sides;
  const outcomes: SideOutcome[] = [];
  try {
    if (used !== undefined) outcomes.push({ family, outcome: await applyTo(host, used, desired, contests) });
    // Ours in the variant that is not in use are left over from before the config was changed.
    // They do their work until the others do.
    const isThere = outcomes.every(({ outcome }) => outcome.error === undefined);
    if (isThere) for (const other of others) outcomes.push({ family, outcome: await clear(host, other) });
  } catch (failure) {
    if (!(failure instanceof KvmnatdError)) throw failure;
    outcomes.push({ family, outcome: { ...NOTHING_DONE, error: failure } });
  }
  return outcomes;
}

function inputProblems(view: View): readonly Problem[] {
  const config = view.configError;
  const leases = view.leaseIssues.map(({ code, message, where, severity }): Problem => ({
    code,
    message: `${where.file}: ${message}`,
    severity,
  }));
  if (config === undefined) return leases;
  const message = `${config.message}; the config read before stays in force`;
  return [{ code: "config", message, severity: "error" }, ...leases];
}

/** libvirtd being a process says nothing: it is socket-activated and idle exits. Its bridge having an address does. */
function waitingFor(host: Host, view: View): readonly Problem[] {
  const named = view.snapshot.portMap.networks ?? [];
  const down = view.networks.filter((network) => network.subnets.length === 0);
  const all = down.length === view.networks.length;
  const missing = down.filter((network) => all || named.includes(network.bridge));
  const waits = missing.map(
    (network) => `for network ${network.bridge}: its bridge is not up or has no address`,
  );
  if (view.networks.length === 0)
    waits.push(`for libvirt: no network has a lease file in ${host.dnsmasqDir}`);
  return waits.map((message) => ({ code: "waiting", message: `waiting ${message}`, severity: "warning" }));
}

function problemOf({ outcome: { error } }: SideOutcome): readonly Problem[] {
  if (error === undefined) return [];
  return [{ code: error.code, message: printable(error.message, 1000), severity: "error" }];
}

function recordContests(
  outcomes: readonly SideOutcome[],
  contests: ContestsByFamily,
  nowMs: number,
): ContestsByFamily {
  const next = new Map(contests);
  for (const { family, outcome } of outcomes)
    next.set(family, recordMoves(next.get(family) ?? new Map(), outcome.moves, outcome.held, nowMs));
  return next;
}

function rejectsElsewhere({ tool, networks }: View, { sides, desired }: FamilyView): readonly Problem[] {
  const [, other] = sides;
  if (tool === undefined || desired.jumps.length === 0) return [];
  return findRejectElsewhere(
    tool.variant,
    other?.actual,
    networks.map(({ bridge }) => bridge),
  );
}

/** Says who won: the rule that stands before ours now. */
function contestOf(view: View, { family, outcome }: SideOutcome): readonly Problem[] {
  if (outcome.held.size === 0) return [];
  const own = view.families.find((each) => each.family === family);
  const actual = own?.sides[0]?.actual;
  const blocker =
    own === undefined || actual === undefined
      ? undefined
      : (findBlocker(own.desired, actual) ?? actual.libvirt?.get("forward")?.[0]?.rule);
  const rule = printable(blocker ?? "a rule that rejects", 300);
  const message = `IPv${family}: another program puts \`${rule}\` before kvmnatd's jump again and again; ${CONTESTED}`;
  return [{ code: "contested", message, severity: "error" }];
}

const CONTESTED =
  "forwards do not pass until that program leaves the jump where it is, or lets in what has conntrack state DNAT; " +
  "kvmnatd now tries once a minute (docs/rules.md)";

/** By family and guest. Rules that serve all of a family, or one that cannot be read at all, concern all its guests. */
function failingGuests(view: View, outcomes: readonly SideOutcome[]): ReadonlyMap<string, string> {
  const failing = new Map<string, string>();
  for (const { family, outcome } of outcomes) {
    if (outcome.error === undefined && outcome.held.size === 0) continue;
    const contested = "contested: another program keeps a rule that rejects before kvmnatd's jump";
    const message = outcome.error === undefined ? contested : printable(outcome.error.message, 200);
    const owners = outcome.remaining.map((change) => ownerOfChange(change)?.name);
    const all = owners.length === 0 || owners.includes(undefined);
    for (const { forward, family: own } of view.resolution.forwards)
      if (own === family && (all || owners.includes(ownerName(forward.guest))))
        failing.set(`${family} ${forward.guest}`, message);
  }
  return failing;
}

function wakeAt(
  view: View,
  outcomes: readonly SideOutcome[],
  contests: ContestsByFamily,
  flows: Cleaning,
): { readonly wakeAtMs?: number } {
  const tries = outcomes.map(({ family, outcome }) =>
    nextTryMs(contests.get(family) ?? new Map(), outcome.held),
  );
  const times = [view.resolution.wakeAtMs, view.lookAgainAtMs, flows.wakeAtMs, ...tries].filter(
    (time) => time !== undefined,
  );
  return times.length === 0 ? {} : { wakeAtMs: Math.min(...times) };
}
