import type { Family } from "../net/address.ts";
import type { SuspectPorts } from "./changed-ports.ts";
import { clientKey, needsStateFilter, isAnsweredByHost, mayBeAnsweredLate, parseFlow } from "./flow.ts";
import type { Initiator, Flow } from "./flow.ts";
import { createFlowCheck, isGuestAddress } from "./expected-target.ts";
import type { ForwardingState } from "./expected-target.ts";

/*
 * The kernel decides once a connection where it leads, and keeps to it: a UDP client that never pauses would go on
 * asking the guest's old address, or the host itself if it began before its port was published. Such entries are
 * removed; the next packet is then decided anew.
 */

/** Connections that are removed by one command: all that are like this one lead astray. */
export interface StaleFlows {
  /** One of them; what the command goes by they have in common. */
  readonly flow: Flow;
  readonly flows: readonly Flow[];
  readonly beginner: Initiator;
  /** Whose port it is; absent when it is nobody's any more. */
  readonly guest?: string;
  /** Only those of this port; else of every port, which all led to the same guest. */
  readonly byPort: boolean;
  /** Others that are alike rightly lead where they do: only this client's, and of late replies only to this port of theirs. */
  readonly bySource: boolean;
  /** Only those in this state: an answered one is the host's own. */
  readonly byState: boolean;
}

/**
 * Of the lines of `conntrack -L`, those that lead astray, by as few commands as can be: each goes through the whole
 * table, and a client that is not there may have sent from a thousand addresses.
 * @param family of the lines
 */
export function findStaleFlows(
  lines: readonly string[],
  doubt: SuspectPorts,
  expectation: ForwardingState,
  family: Family,
): readonly StaleFlows[] {
  const judge = createFlowCheck(doubt, expectation, family);
  const stale: Astray[] = [];
  const right = new Set<string>();
  for (const line of lines) {
    // Cheap test first: there may be a quarter of a million of them.
    if (!judge.concerns(Number(/ dport=(\d+)/.exec(line)?.[1]))) continue;
    const flow = parseFlow(line);
    if (flow === undefined) continue;
    const verdict = judge.judge(flow);
    if (verdict.isStale) stale.push({ flow, ...verdict });
    else right.add(portKey(flow));
  }
  return joinPorts(joinClients(stale, right, "client"), lines);
}

/**
 * A reply that is on its way when its connection is removed begins one of its own, the other way round; what the
 * client sends matches that one, which leads it where it must not go, for as long as it sends. The kernel takes any
 * packet of TCP for a connection's first (nf_conntrack_tcp_loose). Only those of the clients that were cut off: the
 * host or a guest may as well ask somebody from that port of its own.
 * @param lines of `conntrack -L`
 * @param cut the connections that were removed
 * @param family of the lines
 */
export function findLateReplies(
  lines: readonly string[],
  cut: readonly Flow[],
  expectation: ForwardingState,
  family: Family,
): readonly StaleFlows[] {
  if (cut.length === 0) return [];
  const clients = new Set(cut.map(clientKey));
  const doubt: SuspectPorts = {
    ports: cut.map(({ protocol, port }) => ({ protocol, range: { first: port, last: port } })),
    formerTargets: new Set(cut.flatMap((flow) => (isAnsweredByHost(flow) ? [] : [flow.replySource]))),
  };
  return findBegunByAnswerer(lines, doubt, expectation, family, (flow) => clients.has(clientKey(flow)));
}

/**
 * The same where nobody knows any more whom the daemon before this one had cut off: all that a guest has begun so, for what
 * it asks from a published port by itself begins again with its next packet.
 */
export function findReplies(
  lines: readonly string[],
  doubt: SuspectPorts,
  expectation: ForwardingState,
  family: Family,
): readonly StaleFlows[] {
  return findBegunByAnswerer(
    lines,
    doubt,
    expectation,
    family,
    (flow) => mayBeAnsweredLate(flow) && isGuestAddress(flow.replySource, expectation.networks),
  );
}

function findBegunByAnswerer(
  lines: readonly string[],
  doubt: SuspectPorts,
  expectation: ForwardingState,
  family: Family,
  isMeant: (flow: Flow) => boolean,
): readonly StaleFlows[] {
  const judge = createFlowCheck(doubt, expectation, family);
  const stale: Astray[] = [];
  const right = new Set<string>();
  for (const line of lines) {
    if (!judge.concerns(Number.parseInt(line.slice(line.lastIndexOf(PORT) + PORT.length), 10))) continue;
    const flow = parseFlow(line, "answerer");
    if (flow === undefined) continue;
    const verdict = judge.judge(flow);
    if (verdict.isStale && isMeant(flow)) stale.push({ flow, ...verdict });
    else right.add(portKey(flow));
  }
  return joinClients(stale, right, "answerer");
}

const PORT = " dport=";

interface Astray {
  readonly flow: Flow;
  readonly guest?: string;
}

/** @param right what is alike and must stay, see {@link portKey} */
function joinClients(
  stale: readonly Astray[],
  right: ReadonlySet<string>,
  beginner: Initiator,
): readonly StaleFlows[] {
  const sourceOf = (flow: Flow): string =>
    beginner === "client" ? flow.source : `${flow.source} ${flow.sourcePort}`;
  const groups = Map.groupBy(stale, ({ flow }) =>
    right.has(portKey(flow)) ? `${portKey(flow)} ${sourceOf(flow)}` : portKey(flow),
  );
  return [...groups.values()].flatMap(([first, ...others]): readonly StaleFlows[] => {
    if (first === undefined) return [];
    const { flow, guest } = first;
    const flows = [flow, ...others.map((each) => each.flow)];
    const only = { byPort: true, bySource: right.has(portKey(flow)), byState: needsStateFilter(flow) };
    return [{ flow, flows, beginner, ...(guest === undefined ? {} : { guest }), ...only }];
  });
}

/** So many ports of one guest are removed at once, if it has no other connection that would go with them. */
const MANY_PORTS = 8;

function joinPorts(found: readonly StaleFlows[], lines: readonly string[]): readonly StaleFlows[] {
  const groups = Map.groupBy(found, ({ flow, bySource }) =>
    bySource || isAnsweredByHost(flow) ? undefined : guestKey(flow),
  );
  return [...groups].flatMap(([key, group]) => {
    const [first] = group;
    if (key === undefined || first === undefined || group.length < MANY_PORTS) return group;
    const ports = new Set(group.map(({ flow }) => portKey(flow)));
    const others = lines.some((line) => {
      if (!line.includes(` src=${first.flow.replySource} `)) return false;
      const flow = parseFlow(line);
      return flow !== undefined && guestKey(flow) === key && !ports.has(portKey(flow));
    });
    return others ? group : [{ ...first, flows: group.flatMap(({ flows }) => flows), byPort: false }];
  });
}

function guestKey({ protocol, originalDestination: asked, replySource: answerer }: Flow): string {
  return [protocol, asked, answerer].join(" ");
}

function portKey(flow: Flow): string {
  return [guestKey(flow), flow.port, flow.replySourcePort, needsStateFilter(flow) && flow.state].join(" ");
}
