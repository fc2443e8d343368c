import type { Ip } from "../net/address.ts";
import type { SuspectPorts } from "./changed-ports.ts";
import { findExpectedTarget, isGuestAddress, isHostAddress, findTargetsOfPort } from "./expected-target.ts";
import type { ExpectedTarget, ForwardingState } from "./expected-target.ts";
import { canBeAnsweredLate, clientKey, isNotRedirected, needsStateFilter, parseFlow } from "./flow.ts";
import type { Flow } from "./flow.ts";

/*
 * The kernel decides once per connection where it leads. A UDP client that never pauses would keep reaching the guest's
 * old address, or the host itself if it began before its port was published. Such entries are removed; the kernel
 * decides again at the next packet.
 *
 * If the server's reply is that next packet, the kernel takes the server for the initiator (for TCP because of
 * nf_conntrack_tcp_loose). The client's packets match this entry as replies, and reach the server for as long as the
 * client sends. Therefore entries count no matter which end began them.
 */

/** Connections that one `conntrack -D` removes: all that match the selector are stale. */
export interface StaleFlows {
  /** One of them: they have protocol, original destination, reply source and the selector's keys in common. */
  readonly flow: Flow;
  readonly flows: readonly Flow[];
  /** The guest whose port it is; undefined when the port is no longer published. */
  readonly guest: string | undefined;
  readonly selector: FlowSelector;
}

/** What the command is limited to, because other connections that are alike are correct; undefined: not limited. */
interface FlowSelector {
  /** The published port, and the server's that belongs to it. */
  readonly port: number | undefined;
  /** Client; of an entry that the server began, only this port of the client. */
  readonly source: Ip | undefined;
  /** Only unanswered connections to the host itself. */
  readonly state: string | undefined;
}

/** What is checked. */
export interface Suspects extends SuspectPorts {
  /** {@link clientKey}s of removed entries. An entry that the host itself began is a late reply only for these. */
  readonly clients: ReadonlySet<string>;
}

/**
 * Finds the connections that lead where the rules, as they are now, would not lead them.
 * @param lines of `conntrack -L`
 * @returns as few commands as possible, because each searches the whole table: first the entries that clients began
 */
export function findStaleFlows(
  lines: readonly string[],
  suspects: Suspects,
  state: ForwardingState,
): readonly StaleFlows[] {
  const suspectPorts = indexPorts(suspects);
  const stale: StaleFlow[] = [];
  const correct = new Set<string>();
  for (const flow of readSuspectFlows(lines, suspectPorts)) {
    if (isStale(flow, suspects, state)) stale.push({ flow, guest: guestOf(flow, state) });
    else correct.add(commandKey(flow));
  }
  const [client, server] = [false, true].map((isServer) =>
    joinClients(
      stale.filter(({ flow }) => (flow.initiator === "server") === isServer),
      correct,
    ),
  );
  return [...joinPorts(client ?? [], lines), ...(server ?? [])];
}

interface StaleFlow {
  readonly flow: Flow;
  readonly guest: string | undefined;
}

interface PortIndex {
  readonly numbers: ReadonlySet<number>;
  /** `PROTOCOL PORT`. */
  readonly keys: ReadonlySet<string>;
}

function indexPorts({ ports }: SuspectPorts): PortIndex {
  const [numbers, keys] = [new Set<number>(), new Set<string>()];
  for (const { protocol, range } of ports)
    for (let port = range.first; port <= range.last; port += 1) {
      numbers.add(port);
      keys.add(`${protocol} ${port}`);
    }
  return { numbers, keys };
}

const PORT = " dport=";

/** Each line can be read in two ways: as begun by the client, or by the server. */
function* readSuspectFlows(lines: readonly string[], { numbers, keys }: PortIndex): Generator<Flow> {
  for (const line of lines) {
    // Parsing takes most of the time, so only lines with a suspect port are parsed.
    if (numbers.has(portAt(line, line.indexOf(PORT)))) {
      const flow = parseFlow(line, "client");
      if (flow !== undefined && keys.has(`${flow.protocol} ${flow.port}`)) yield flow;
    }
    if (numbers.has(portAt(line, line.lastIndexOf(PORT)))) {
      const flow = parseFlow(line, "server");
      if (flow !== undefined && keys.has(`${flow.protocol} ${flow.port}`)) yield flow;
    }
  }
}

function portAt(line: string, index: number): number {
  return Number.parseInt(line.slice(index + PORT.length, index + PORT.length + 5), 10);
}

function isStale(flow: Flow, suspects: Suspects, state: ForwardingState): boolean {
  if (flow.initiator === "server" && !isLateReply(flow, suspects, state)) return false;
  // A connection to an address of another machine: kvmnatd never redirected it.
  if (isNotRedirected(flow) && !isHostAddress(flow.originalDestination, state)) return false;
  const expected = findExpectedTarget(flow, state);
  const isCorrect = expected === undefined ? !wasForwarded(flow, suspects, state) : leadsTo(flow, expected);
  // An established login on the host outlives the publication of its port; an unanswered one may be redirected.
  return !isCorrect && (!needsStateFilter(flow) || flow.state === "SYN_SENT");
}

/**
 * What a guest begins from a suspect port may also be a connection of its own: removing it does no harm, because the
 * guest's next packet begins it again. The host's own would be lost: the answer would go to the guest.
 */
function isLateReply(flow: Flow, { clients, formerTargets }: Suspects, state: ForwardingState): boolean {
  if (!canBeAnsweredLate(flow) || !isHostAddress(flow.originalDestination, state)) return false;
  return isNotRedirected(flow)
    ? clients.has(clientKey(flow))
    : isGuestAddress(flow.replySource, state) || formerTargets.has(flow.replySource);
}

function wasForwarded(flow: Flow, { formerTargets }: SuspectPorts, state: ForwardingState): boolean {
  return (
    formerTargets.has(flow.replySource) ||
    findTargetsOfPort(flow, state).some((target) => leadsTo(flow, target))
  );
}

function leadsTo({ replySource, replySourcePort }: Flow, { address, port }: ExpectedTarget): boolean {
  return replySource === address && replySourcePort === port;
}

function guestOf(flow: Flow, state: ForwardingState): string | undefined {
  return (findExpectedTarget(flow, state) ?? findTargetsOfPort(flow, state)[0])?.guest;
}

/** @param correct {@link commandKey}s of connections that must stay */
function joinClients(stale: readonly StaleFlow[], correct: ReadonlySet<string>): readonly StaleFlows[] {
  const groups = Map.groupBy(stale, ({ flow }) => {
    const key = commandKey(flow);
    if (!correct.has(key)) return key;
    return [key, flow.source, flow.initiator === "server" && flow.sourcePort].join(" ");
  });
  return [...groups.values()].flatMap((group): readonly StaleFlows[] => {
    const [first] = group;
    if (first === undefined) return [];
    const { flow, guest } = first;
    const selector: FlowSelector = {
      port: flow.port,
      source: correct.has(commandKey(flow)) ? flow.source : undefined,
      state: needsStateFilter(flow) ? flow.state : undefined,
    };
    return [{ flow, flows: group.map((each) => each.flow), guest, selector }];
  });
}

/** Minimum number of ports of one guest that one command removes, if the guest has no other connections. */
const MANY_PORTS = 8;

function joinPorts(found: readonly StaleFlows[], lines: readonly string[]): readonly StaleFlows[] {
  const groups = Map.groupBy(found, ({ flow, selector }) =>
    selector.source !== undefined || isNotRedirected(flow) ? undefined : serverKey(flow),
  );
  return [...groups].flatMap(([key, group]) => {
    const [first] = group;
    if (key === undefined || first === undefined || group.length < MANY_PORTS) return group;
    const ports = new Set(group.map(({ flow }) => commandKey(flow)));
    const hasOthers = lines.some((line) => {
      if (!line.includes(` src=${first.flow.replySource} `)) return false;
      const flow = parseFlow(line);
      return flow !== undefined && serverKey(flow) === key && !ports.has(commandKey(flow));
    });
    if (hasOthers) return group;
    const flows = group.flatMap((each) => each.flows);
    return [{ ...first, flows, selector: { ...first.selector, port: undefined } }];
  });
}

/** What every command has in common with the connections that it removes. */
function serverKey({ initiator, protocol, originalDestination, replySource }: Flow): string {
  return [initiator, protocol, originalDestination, replySource].join(" ");
}

/** The same for all that one command removes if it is limited to a port. */
function commandKey(flow: Flow): string {
  return [serverKey(flow), flow.port, flow.replySourcePort, needsStateFilter(flow) && flow.state].join(" ");
}
