import type { Family } from "../core/address.ts";
import { doubtAfter, doubtAll, leadsOf, mergeDoubts } from "../core/doubt.ts";
import type { Doubt, Lead } from "../core/doubt.ts";
import { findStaleFlows } from "../core/flows.ts";
import type { StaleFlows } from "../core/flows.ts";
import type { FamilyChange, LogEntry } from "../core/narrate.ts";
import { printable } from "../core/printable.ts";
import type { Problem } from "../core/status.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host } from "../ports.ts";
import type { View } from "./observe.ts";

/** What one pass hands to the next of the connections. */
export interface FlowMemory {
  /** Where the forwards led; at start what the daemon before this one says in its last status, if there is one. */
  readonly leads: readonly Lead[];
  /** Of each family what has not been looked at yet; absent at start, when all is in doubt. */
  readonly doubts?: ReadonlyMap<Family, Doubt>;
}

export interface Cleaning {
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Problem[];
  readonly memory: FlowMemory;
  /** When to go on with what is left, epoch ms: others' rules come first. */
  readonly wakeAtMs?: number;
}

/** So many commands of conntrack take a tenth of a second, which everybody's next change waits. */
const MAX_REMOVALS = 20;
/** What could not be looked at is tried again then. */
const RETRY_MS = 10_000;

/** Removes connections that lead where the rules, as they are now, would not lead them. */
export async function cleanFlows(
  host: Host,
  view: View,
  changes: readonly FamilyChange[],
  memory: FlowMemory,
): Promise<Cleaning> {
  const entries: LogEntry[] = [];
  const problems: Problem[] = [];
  const doubts = new Map<Family, Doubt>();
  const leads = leadsOf(view.resolution.forwards);
  let waitMs: number | undefined;
  for (const { family, error } of view.families) {
    const earlier = memory.doubts?.get(family);
    const doubt = mergeDoubts([
      doubtAfter(changes, memory.leads, leads, family),
      ...(memory.doubts === undefined ? [doubtAll(memory.leads, leads, family)] : []),
      ...(earlier === undefined ? [] : [earlier]),
    ]);
    if (doubt.ports.length === 0) continue;
    doubts.set(family, doubt);
    if (error !== undefined) continue;
    try {
      const stale = findStaleFlows(await host.listFlows(family), doubt, expectationOf(view), family);
      for (const each of stale.slice(0, MAX_REMOVALS)) {
        const count = await host.removeFlows(each, family);
        if (count > 0) entries.push(toEntry(each, count));
      }
      if (stale.length <= MAX_REMOVALS) doubts.delete(family);
      else waitMs = 0;
    } catch (failure) {
      if (!(failure instanceof KvmnatdError)) throw failure;
      waitMs ??= RETRY_MS;
      problems.push({
        code: "conntrack",
        severity: "warning",
        message: `${failure.message}; ${CONSEQUENCE}`,
      });
    }
  }
  return {
    entries,
    problems,
    memory: { leads, doubts },
    ...(waitMs === undefined ? {} : { wakeAtMs: host.now() + waitMs }),
  };
}

const CONSEQUENCE = "until then a connection that began before its forward changed keeps its old way";

function expectationOf(view: View): Parameters<typeof findStaleFlows>[2] {
  return {
    forwards: view.resolution.forwards,
    reach: view.snapshot.portMap.reach,
    addresses: view.addresses,
    networks: view.networks,
  };
}

function toEntry({ flow, guest, byPort }: StaleFlows, count: number): LogEntry {
  const { protocol, asked, port, answerer } = flow;
  const whose = guest === undefined ? "" : `${printable(guest)}: `;
  const led = answerer === asked ? "to the host itself" : `to ${answerer}`;
  const entries = count === 1 ? "1 conntrack entry" : `${count} conntrack entries`;
  const where = byPort ? `${protocol} port ${port}` : protocol;
  return {
    level: "info",
    event: "flows-removed",
    message: `${whose}${entries} of ${where} at ${asked} removed that led ${led}`,
    ...(guest === undefined ? {} : { guest }),
  };
}
