import { setTimeout } from "node:timers/promises";
import type { Family } from "../net/address.ts";
import { suspectsAfter, allSuspects, mergeSuspects } from "../conntrack/changed-ports.ts";
import type { SuspectPorts } from "../conntrack/changed-ports.ts";
import { clientKey, mayBeAnsweredLate } from "../conntrack/flow.ts";
import type { Flow } from "../conntrack/flow.ts";
import { findLateReplies, findReplies, findStaleFlows } from "../conntrack/stale-flows.ts";
import type { StaleFlows } from "../conntrack/stale-flows.ts";
import type { LogEntry } from "../log/audit-entries.ts";
import { printable } from "../sanitize.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host } from "../host-interface.ts";
import type { View } from "./observe.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";
import type { FamilyChange } from "../rules/diff.ts";
import { portTargets } from "../forwards/resolved-forward.ts";
import type { PortTarget } from "../forwards/resolved-forward.ts";

/** What one pass hands to the next of the connections. */
export interface FlowMemory {
  /** Where the forwards led; at start what the daemon before this one says in its last status, if there is one. */
  readonly leads: readonly PortTarget[];
  /** Of each family what has not been looked at yet; absent at start, when all is in doubt. */
  readonly doubts?: ReadonlyMap<Family, SuspectPorts>;
  /** Connections that were removed lately, and when, epoch ms: a reply that was on its way may begin them anew. */
  readonly cut?: ReadonlyMap<Family, readonly RemovedFlow[]>;
}

interface RemovedFlow {
  readonly flow: Flow;
  /** The last time. */
  readonly atMs: number;
  /** The first time. */
  readonly sinceMs: number;
}

export interface Cleaning {
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Diagnostic[];
  readonly memory: FlowMemory;
  /** When to go on with what is left, epoch ms: others' rules come first. */
  readonly wakeAtMs?: number;
}

/** So many commands of conntrack take a tenth of a second, which everybody's next change waits. */
const MAX_REMOVALS = 20;
/** What could not be looked at is tried again then. */
const RETRY_MS = 10_000;
/** So long a pass goes on removing: in a table of a hundred thousand each command takes a third of a second. */
const REMOVING_MS = 200;
/** So long who is cut off again and again is looked for: a guest may go on replying for ever. */
const CUT_MAX_MS = 60_000;
/** So long after a connection was removed it is looked for again: a slow server's reply takes seconds. */
const LATE_REPLIES_MS = [100, 200, 400, 800, 1600, 3200, 6400, 12_800];
/**
 * So often in a row: each time either the next reply comes first, and begins it again, or what the client sends, and
 * that is decided anew. A download has two replies for each packet of its client.
 */
const LATE_REPLY_TRIES = 10;
/** Who asks from more addresses than so many at a time is nobody whose connections would be missed. */
const MAX_CUT = 10_000;

/** Removes connections that lead where the rules, as they are now, would not lead them. */
export async function removeStaleFlows(
  host: Host,
  view: View,
  changes: readonly FamilyChange[],
  memory: FlowMemory,
): Promise<Cleaning> {
  const entries: LogEntry[] = [];
  const problems: Diagnostic[] = [];
  const doubts = new Map<Family, SuspectPorts>();
  const cuts = new Map<Family, readonly RemovedFlow[]>();
  const leads = portTargets(view.resolution.forwards);
  const waits: number[] = [];
  for (const { family, error } of view.families) {
    const earlier = memory.doubts?.get(family);
    const doubt = mergeSuspects([
      suspectsAfter(changes, memory.leads, leads, family),
      ...(memory.doubts === undefined ? [allSuspects(memory.leads, leads, family)] : []),
      ...(earlier === undefined ? [] : [earlier]),
    ]);
    const cut = memory.cut?.get(family) ?? [];
    if (doubt.ports.length === 0 && cut.length === 0) continue;
    doubts.set(family, doubt);
    cuts.set(family, cut);
    if (error !== undefined) continue;
    const removal = await removeStale(host, view, family, {
      doubt,
      cut,
      isFirst: memory.doubts === undefined,
    });
    entries.push(...removal.entries);
    const left = stillLate(removal.cut, host.now());
    cuts.set(family, left);
    waits.push(...left.flatMap(({ atMs }) => nextLookMs(atMs, host.now()) ?? []));
    if (removal.failure !== undefined) {
      waits.push(RETRY_MS);
      const message = `${removal.failure.message}; ${CONSEQUENCE}`;
      problems.push(createWarning("conntrack-failed", message));
    } else if (removal.isDone) doubts.delete(family);
    else waits.push(0);
  }
  return {
    entries,
    problems,
    memory: { leads, doubts, cut: cuts },
    ...(waits.length === 0 ? {} : { wakeAtMs: host.now() + Math.min(...waits) }),
  };
}

const CONSEQUENCE = "until then a connection that began before its forward changed keeps its old way";

/** Who ends after one pass waits no longer than this. */
const PATIENCE_MS = 5000;

/** For who ends after one pass: goes on with what is left, and with late replies, for {@link PATIENCE_MS}. */
export async function finishCleaning(
  host: Host,
  view: View,
  memory: FlowMemory,
): Promise<Pick<Cleaning, "entries" | "problems">> {
  const entries: LogEntry[] = [];
  const problems: Diagnostic[] = [];
  const deadlineMs = host.now() + PATIENCE_MS;
  let cleaning = await removeStaleFlows(host, view, [], memory);
  for (;;) {
    entries.push(...cleaning.entries);
    problems.push(...cleaning.problems);
    const { wakeAtMs } = cleaning;
    if (wakeAtMs === undefined || problems.length > 0 || wakeAtMs > deadlineMs) return { entries, problems };
    await setTimeout(Math.max(0, wakeAtMs - host.now()));
    cleaning = await removeStaleFlows(host, view, [], cleaning.memory);
  }
}

interface Removal {
  readonly entries: readonly LogEntry[];
  /** Those before, and those that were removed now. */
  readonly cut: readonly RemovedFlow[];
  /** None is left that its client began and that leads astray. */
  readonly isDone: boolean;
  /** Why it was cut short; what was done before it is done. */
  readonly failure?: KvmnatdError;
}

/** What of the connections is to be looked at. */
interface Suspicion {
  readonly doubt: SuspectPorts;
  readonly cut: readonly RemovedFlow[];
  /** Nobody knows whom a daemon before this one has cut off. */
  readonly isFirst: boolean;
}

async function removeStale(
  host: Host,
  view: View,
  family: Family,
  { doubt, cut: before, isFirst }: Suspicion,
): Promise<Removal> {
  const counts = new Map<StaleFlows, number>();
  const cut = new Map(before.map((each) => [clientKey(each.flow), each]));
  const outcome = (isDone: boolean, failure?: KvmnatdError): Removal => ({
    entries: [...counts].flatMap(([each, count]) => (count === 0 ? [] : [toEntry(each, count)])),
    cut: [...cut.values()],
    isDone,
    ...(failure === undefined ? {} : { failure }),
  });
  const remove = async (each: StaleFlows): Promise<boolean> => {
    const count = await host.removeFlows(each, family);
    counts.set(each, (counts.get(each) ?? 0) + count);
    return count > 0;
  };
  /** From now on they are looked for. */
  const remember = (flows: readonly Flow[]): void => {
    const atMs = host.now();
    for (const flow of flows.filter(mayBeAnsweredLate)) {
      const key = clientKey(flow);
      const sinceMs = cut.get(key)?.sinceMs ?? atMs;
      // The newest last: of too many the others are forgotten first.
      cut.delete(key);
      cut.set(key, { flow, atMs, sinceMs });
    }
  };
  const endsAtMs = host.monotonicMs() + REMOVING_MS;
  const isTime = (): boolean => host.monotonicMs() < endsAtMs;
  try {
    const lines = await host.listFlows(family);
    const expectation = expectationOf(view);
    const astray = findStaleFlows(lines, doubt, expectation, family);
    const flows = before.map(({ flow }) => flow);
    let late = isFirst
      ? findReplies(lines, doubt, expectation, family)
      : findLateReplies(lines, flows, expectation, family);
    if (isFirst) for (const each of late) remember(each.flows);
    let done = 0;
    for (const each of astray.slice(0, MAX_REMOVALS)) {
      if (done > 0 && !isTime()) break;
      await remove(each);
      remember(each.flows);
      done += 1;
    }
    let left = Math.max(0, MAX_REMOVALS - astray.length);
    // Those whose turn does not come now are not over when their time is.
    for (const each of late.slice(left)) remember(each.flows);
    for (let turn = 0; turn < LATE_REPLY_TRIES && left > 0 && late.length > 0; turn += 1) {
      const again: StaleFlows[] = [];
      for (const each of late.slice(0, left)) {
        if (!isTime()) remember(each.flows);
        else if (await remove(each)) again.push(each);
      }
      left -= late.length;
      late = again;
    }
    return outcome(done === astray.length);
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    return outcome(false, error);
  }
}

/** A clock that was set back makes none of them last. */
function stillLate(cut: readonly RemovedFlow[], nowMs: number): readonly RemovedFlow[] {
  return cut
    .map(({ flow, atMs, sinceMs }) => ({
      flow,
      atMs: Math.min(atMs, nowMs),
      sinceMs: Math.min(sinceMs, nowMs),
    }))
    .filter(({ atMs, sinceMs }) => nextLookMs(atMs, nowMs) !== undefined && nowMs - sinceMs < CUT_MAX_MS)
    .slice(-MAX_CUT);
}

/** How long until the next look for late replies; undefined after the last. */
function nextLookMs(atMs: number, nowMs: number): number | undefined {
  return LATE_REPLIES_MS.map((afterMs) => atMs + afterMs - nowMs).find((waitMs) => waitMs > 0);
}

function expectationOf(view: View): Parameters<typeof findStaleFlows>[2] {
  return {
    forwards: view.resolution.forwards,
    reach: view.snapshot.portMap.reach,
    addresses: view.addresses,
    networks: view.networks,
  };
}

function toEntry({ flow, beginner, guest, byPort }: StaleFlows, count: number): LogEntry {
  const { protocol, originalDestination: asked, port, replySource: answerer } = flow;
  const whose = guest === undefined ? "" : `${printable(guest)}: `;
  const who = answerer === asked ? "the host itself" : answerer;
  const entries = count === 1 ? "1 conntrack entry" : `${count} conntrack entries`;
  const where = byPort ? `${protocol} port ${port}` : protocol;
  const why = beginner === "client" ? `led to ${who}` : `began by a late reply of ${who}`;
  return {
    level: "info",
    event: "conntrack-entries-removed",
    message: `${whose}${entries} of ${where} at ${asked} removed that ${why}`,
    ...(guest === undefined ? {} : { guest }),
    ...(beginner === "client" ? {} : { quota: `flows-removed ${guest ?? ""}` }),
  };
}
