import type { Family } from "../net/address.ts";
import { suspectAllPorts, mergeSuspects, findSuspects } from "../conntrack/changed-ports.ts";
import type { SuspectPorts, TargetChange } from "../conntrack/changed-ports.ts";
import { createForwardingState } from "../conntrack/expected-target.ts";
import type { Forwarding } from "../conntrack/expected-target.ts";
import { isNotRedirected } from "../conntrack/flow.ts";
import { planRetry, mergeChecks, createCheck, planNextCheck } from "../conntrack/pending-checks.ts";
import type { CheckOutcome, PendingCheck } from "../conntrack/pending-checks.ts";
import { findStaleFlows } from "../conntrack/stale-flows.ts";
import type { StaleFlows, Suspects } from "../conntrack/stale-flows.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";
import { findEarliest } from "../earliest.ts";
import { KvmnatdError } from "../errors.ts";
import { toPortTargets } from "../forwards/resolved-forward.ts";
import type { PortTarget } from "../forwards/resolved-forward.ts";
import type { Host } from "../host-interface.ts";
import type { LogEntry } from "../log/audit-entries.ts";
import type { FamilyChange } from "../rules/diff.ts";
import { printable } from "../sanitize.ts";
import type { FamilyView, View } from "./observe.ts";

/** What one pass hands to the next about connections. */
export interface FlowState {
  /** Where the forwards led after the last pass; at start what the last status of the daemon before says. */
  readonly targets: readonly PortTarget[];
  /** Undefined at start, when every port is suspect. */
  readonly pending: ReadonlyMap<Family, readonly PendingCheck[]> | undefined;
}

export interface Cleaning {
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Diagnostic[];
  readonly state: FlowState;
  /** When the next check is due, on the monotonic clock. */
  readonly dueAtMs: number | undefined;
  /** The same in epoch ms. */
  readonly wakeAtMs: number | undefined;
}

/**
 * Maximum number of selectors that a pass deletes in one family; each may be repeated, see {@link MAX_REPEATS}. Twenty
 * deletions take about 0.1 s and delay the next rule change by that time.
 */
const MAX_REMOVALS = 20;
/** Maximum time for the deletions of a pass in one family. In a table of 100,000 entries each takes a third of a second. */
const MAX_REMOVING_MS = 200;
/**
 * Maximum number of consecutive deletions with one selector, for entries that a server began. After each deletion, either
 * the server's next reply creates the wrong entry again, or the client's next packet creates the right one. A download has
 * two replies per client packet.
 */
const MAX_REPEATS = 10;

/** @param targets where the daemon before this one led the forwards */
export function startFlowState(targets: readonly PortTarget[] = []): FlowState {
  return { targets, pending: undefined };
}

/** Removes connections that lead where the rules, as they are now, would not lead them. */
export async function removeStaleFlows(
  host: Host,
  view: View,
  changes: readonly FamilyChange[],
  state: FlowState,
): Promise<Cleaning> {
  const targets = { before: state.targets, after: toPortTargets(view.resolution.forwards) };
  const results: FamilyResult[] = [];
  for (const each of view.families) {
    const suspects = suspectsOf(state, changes, targets, each.family);
    const pending = [
      ...(state.pending?.get(each.family) ?? []),
      ...createChecks(state, suspects, host.monotonicMs()),
    ];
    results.push(await checkFamily(host, view, each, pending));
  }
  const dueAtMs = findEarliest(
    results.flatMap((each) => (each.isBlocked ? [] : each.pending.map((check) => check.dueAtMs))),
  );
  return {
    entries: results.flatMap(({ entries }) => entries),
    problems: results.flatMap(({ pending }) => pending.flatMap(describeFailure)),
    state: {
      targets: targets.after,
      pending: new Map(results.map(({ family, pending }) => [family, pending])),
    },
    dueAtMs,
    wakeAtMs: dueAtMs === undefined ? undefined : host.now() + Math.max(0, dueAtMs - host.monotonicMs()),
  };
}

/** Maximum time that {@link finishCleaning} waits. */
const PATIENCE_MS = 5000;

/** For one-shot commands: goes on with the checks that are due within {@link PATIENCE_MS}. */
export async function finishCleaning(
  host: Host,
  view: View,
  state: FlowState,
): Promise<Pick<Cleaning, "entries" | "problems">> {
  const entries: LogEntry[] = [];
  const problems: Diagnostic[] = [];
  const deadlineMs = host.monotonicMs() + PATIENCE_MS;
  let cleaning = await removeStaleFlows(host, view, [], state);
  for (;;) {
    entries.push(...cleaning.entries);
    problems.push(...cleaning.problems);
    const { dueAtMs } = cleaning;
    if (dueAtMs === undefined || problems.length > 0 || dueAtMs > deadlineMs) return { entries, problems };
    await host.sleep(Math.max(0, dueAtMs - host.monotonicMs()));
    cleaning = await removeStaleFlows(host, view, [], cleaning.state);
  }
}

function suspectsOf(
  { pending }: FlowState,
  changes: readonly FamilyChange[],
  targets: TargetChange,
  family: Family,
): SuspectPorts {
  const changed = findSuspects(changes, targets, family);
  return pending === undefined ? mergeSuspects([changed, suspectAllPorts(targets, family)]) : changed;
}

function createChecks(
  { targets, pending }: FlowState,
  suspects: SuspectPorts,
  nowMs: number,
): readonly PendingCheck[] {
  if (suspects.ports.length === 0) return [];
  // The daemon before may have removed entries right before it ended: late replies to them are still to come.
  const isTakeover = pending === undefined && targets.length > 0;
  return [{ ...createCheck(suspects, nowMs), sinceMs: isTakeover ? nowMs : undefined }];
}

interface FamilyResult {
  readonly family: Family;
  readonly entries: readonly LogEntry[];
  readonly pending: readonly PendingCheck[];
  /** The rules could not be read: checks wait for the pass that can. */
  readonly isBlocked: boolean;
}

async function checkFamily(
  host: Host,
  view: View,
  { family, error }: FamilyView,
  pending: readonly PendingCheck[],
): Promise<FamilyResult> {
  const nowMs = host.monotonicMs();
  const isBlocked = error !== undefined;
  const due = isBlocked ? [] : pending.filter(({ dueAtMs }) => dueAtMs <= nowMs);
  const later = pending.filter((each) => !due.includes(each));
  if (due.length === 0) return { family, entries: [], pending, isBlocked };
  const { removed, left, failure } = await removeStale(host, view, family, mergeChecks(due));
  const counted = removed.filter(({ count }) => count > 0);
  const outcome = { removed: counted.flatMap(({ stale }) => stale.flows), left };
  const doneMs = host.monotonicMs();
  const next =
    failure === undefined
      ? due.flatMap((check) => planNextCheck(check, outcome, doneMs) ?? [])
      : planRetry(due, outcome, failure.message, doneMs);
  return {
    family,
    entries: counted.map(({ stale, count }) => toEntry(stale, count)),
    pending: [...later, ...next],
    isBlocked,
  };
}

interface Removed {
  readonly stale: StaleFlows;
  /** Entries that were there: some may have ended since they were listed. */
  readonly count: number;
}

interface FlowRemoval {
  readonly removed: readonly Removed[];
  readonly left: CheckOutcome["left"];
  /** Why it ended early. */
  readonly failure: KvmnatdError | undefined;
}

async function removeStale(host: Host, view: View, family: Family, suspects: Suspects): Promise<FlowRemoval> {
  const removed: Removed[] = [];
  try {
    const lines = await host.listFlows(family);
    const found = findStaleFlows(lines, suspects, createForwardingState(forwardingOf(view), family));
    const deadlineMs = host.monotonicMs() + MAX_REMOVING_MS;
    for (const stale of found.slice(0, MAX_REMOVALS)) {
      if (removed.length > 0 && host.monotonicMs() >= deadlineMs) break;
      removed.push({ stale, count: await removeRepeatedly(host, family, stale, deadlineMs) });
    }
    return { removed, left: found[removed.length]?.flow.initiator ?? "none", failure: undefined };
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    return { removed, left: "none", failure: error };
  }
}

async function removeRepeatedly(
  host: Host,
  family: Family,
  stale: StaleFlows,
  deadlineMs: number,
): Promise<number> {
  const maxRepeats = stale.flow.initiator === "server" ? MAX_REPEATS : 1;
  let total = 0;
  for (let repeat = 0; repeat < maxRepeats; repeat += 1) {
    if (repeat > 0 && host.monotonicMs() >= deadlineMs) break;
    const count = await host.removeFlows(stale, family);
    if (count === 0) break;
    total += count;
  }
  return total;
}

function forwardingOf({ resolution: { forwards }, snapshot, links, networks }: View): Forwarding {
  return { forwards, reach: snapshot.portMap.reach, addresses: links.addresses, networks };
}

function describeFailure({ failure }: PendingCheck): readonly Diagnostic[] {
  if (failure === undefined) return [];
  const effect = "until then a connection that began before its forward changed keeps its old way";
  return [createWarning("conntrack-failed", `${failure}; ${effect}`)];
}

function toEntry({ flow, guest, selector }: StaleFlows, count: number): LogEntry {
  const { initiator, protocol, originalDestination, port, replySource } = flow;
  const owner = guest === undefined ? "" : `${printable(guest)}: `;
  const server = isNotRedirected(flow) ? "the host itself" : replySource;
  const entries = count === 1 ? "1 conntrack entry" : `${count} conntrack entries`;
  const ports = selector.port === undefined ? protocol : `${protocol} port ${port}`;
  const why = initiator === "client" ? `led to ${server}` : `began by a late reply of ${server}`;
  return {
    level: "info",
    event: "conntrack-entries-removed",
    message: `${owner}${entries} of ${ports} at ${originalDestination} removed that ${why}`,
    ...(guest === undefined ? {} : { guest }),
    ...(initiator === "client" ? {} : { limitKey: `flows-removed ${guest ?? ""}` }),
  };
}
