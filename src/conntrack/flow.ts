import { parseIp } from "../net/address.ts";
import type { Ip, Protocol } from "../net/address.ts";

/** Which end sent the packet that the kernel took for the first of a connection. */
export type Initiator = "client" | "server";

/** A connection that the kernel tracks, described from its client's side. */
export interface Flow {
  readonly protocol: Protocol;
  /** Connection state as `conntrack -L` prints it, such as ESTABLISHED; undefined for udp. */
  readonly state: string | undefined;
  readonly initiator: Initiator;
  readonly source: Ip;
  readonly sourcePort: number;
  readonly originalDestination: Ip;
  readonly port: number;
  readonly replySource: Ip;
  readonly replySourcePort: number;
}

const TUPLE = String.raw`src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) `;
const FLOW = new RegExp(String.raw`^(tcp|udp|sctp) +\d+ (?:\d+ )?(?:([A-Z_0-9]+) )?${TUPLE}.*?${TUPLE}`);

/**
 * Reads a line of `conntrack -L` (conntrack-tools 1.4.6 to 1.4.8).
 * @param initiator which end began it: the kernel does not know which of the two is the client
 * @returns undefined for other protocols
 */
export function parseFlow(line: string, initiator: Initiator = "client"): Flow | undefined {
  const [, protocol, state, ...ends] = FLOW.exec(line) ?? [];
  const [original, reply] = [readTuple(ends.slice(0, 4)), readTuple(ends.slice(4))];
  if (original === undefined || reply === undefined) return undefined;
  const [request, answer] = initiator === "client" ? [original, reply] : [reply, original];
  return {
    protocol: protocol as Protocol,
    state,
    initiator,
    source: request.from,
    sourcePort: request.fromPort,
    originalDestination: request.to,
    port: request.toPort,
    replySource: answer.from,
    replySourcePort: answer.fromPort,
  };
}

interface Tuple {
  readonly from: Ip;
  readonly fromPort: number;
  readonly to: Ip;
  readonly toPort: number;
}

function readTuple([source = "", destination = "", sourcePort, port]: readonly string[]): Tuple | undefined {
  const [from, to] = [parseIp(source), parseIp(destination)];
  if (from === undefined || to === undefined) return undefined;
  return { from, fromPort: Number(sourcePort), to, toPort: Number(port) };
}

/**
 * Whether a late reply could reach the client: masquerading keeps the source port, so the client accepts the reply only
 * if the published port equals the server's port.
 */
export function canBeAnsweredLate({ state, port, replySourcePort }: Flow): boolean {
  return port === replySourcePort && state !== "SYN_SENT";
}

/** The same for all entries of one client's socket and one published port. */
export function clientKey({ protocol, source, sourcePort, originalDestination, port }: Flow): string {
  return [protocol, source, sourcePort, originalDestination, port].join(" ");
}

/** Whether no rule redirected it: the reply comes from the address to which the client sends. */
export function isNotRedirected({ originalDestination, replySource }: Flow): boolean {
  return originalDestination === replySource;
}

/** Whether the state is needed to select it: of connections to the host itself, only unanswered ones are removed. */
export function needsStateFilter(flow: Flow): boolean {
  return isNotRedirected(flow) && flow.state !== undefined;
}
