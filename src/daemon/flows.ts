import type { Family } from "../core/address.ts";
import { doubtAfter, doubtAll, doubtFormer, findStaleFlows } from "../core/flows.ts";
import type { Doubt, StaleFlows } from "../core/flows.ts";
import type { FamilyChange, LogEntry } from "../core/narrate.ts";
import { printable } from "../core/printable.ts";
import type { ForwardStatus, Problem } from "../core/status.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host } from "../ports.ts";
import type { View } from "./observe.ts";

export interface Cleaning {
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Problem[];
  /** Families in which no connection leads astray; in the others all are looked at again in the next pass. */
  readonly cleaned: ReadonlySet<Family>;
}

/**
 * Removes connections that lead where the rules, as they are now, would not lead them.
 * @param former what the daemon before this one had published
 */
export async function cleanFlows(
  host: Host,
  view: View,
  changes: readonly FamilyChange[],
  cleaned: ReadonlySet<Family>,
  former: readonly ForwardStatus[],
): Promise<Cleaning> {
  const entries: LogEntry[] = [];
  const problems: Problem[] = [];
  const now = new Set<Family>();
  const expectation = {
    forwards: view.resolution.forwards,
    reach: view.snapshot.portMap.reach,
    addresses: view.addresses,
    networks: view.networks,
  };
  for (const { family, error } of view.families) {
    if (error !== undefined) continue;
    const doubt = merge([
      doubtAfter(changes, family),
      ...(cleaned.has(family) ? [] : [doubtAll(expectation.forwards, family), doubtFormer(former, family)]),
    ]);
    try {
      if (doubt.ports.length > 0) {
        const lines = await host.listFlows(family);
        for (const stale of findStaleFlows(lines, doubt, expectation, family)) {
          const count = await host.removeFlows(stale, family);
          if (count > 0) entries.push(toEntry(stale, count));
        }
      }
      now.add(family);
    } catch (failure) {
      if (!(failure instanceof KvmnatdError)) throw failure;
      problems.push({
        code: "conntrack",
        severity: "warning",
        message: `${failure.message}; ${CONSEQUENCE}`,
      });
    }
  }
  return { entries, problems, cleaned: now };
}

const CONSEQUENCE = "until then a connection that began before its forward changed keeps its old way";

function merge(doubts: readonly Doubt[]): Doubt {
  return {
    ports: doubts.flatMap(({ ports }) => ports),
    formerTargets: new Set(doubts.flatMap(({ formerTargets }) => [...formerTargets])),
  };
}

function toEntry({ flow, guest }: StaleFlows, count: number): LogEntry {
  const { protocol, asked, port, answerer } = flow;
  const whose = guest === undefined ? "" : `${printable(guest)}: `;
  const led = answerer === asked ? "to the host itself" : `to ${answerer}`;
  const entries = count === 1 ? "1 conntrack entry" : `${count} conntrack entries`;
  return {
    level: "info",
    event: "flows-removed",
    message: `${whose}${entries} of ${protocol} port ${port} at ${asked} removed that led ${led}`,
    ...(guest === undefined ? {} : { guest }),
  };
}
