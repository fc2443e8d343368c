import { parseIp } from "../net/address.ts";
import type { Ip, Protocol } from "../net/address.ts";

/** A connection that the kernel tracks: who asked which port of the host, and who answers. */
export interface Flow {
  readonly protocol: Protocol;
  /** As the kernel names it; udp has none. */
  readonly state?: string;
  readonly source: Ip;
  readonly sourcePort: number;
  readonly originalDestination: Ip;
  readonly port: number;
  readonly replySource: Ip;
  readonly replySourcePort: number;
}

const TUPLE = String.raw`src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) `;
const FLOW = new RegExp(String.raw`^(tcp|udp|sctp) +\d+ (?:\d+ )?(?:([A-Z_0-9]+) )?${TUPLE}.*?${TUPLE}`);

/** Whose packet the kernel took for the first of a connection. */
export type Initiator = "client" | "answerer";

/**
 * Reads a line of `conntrack -L` (conntrack-tools 1.4.6 to 1.4.8); undefined for other protocols.
 * @param beginner who is to be taken for the client: the one who began it, or the one who was answered by it
 */
export function parseFlow(line: string, beginner: Initiator = "client"): Flow | undefined {
  const [, protocol, state, ...ends] = FLOW.exec(line) ?? [];
  const [original, reply] = [readTuple(ends.slice(0, 4)), readTuple(ends.slice(4))];
  if (original === undefined || reply === undefined) return undefined;
  const [ask, answer] = beginner === "client" ? [original, reply] : [reply, original];
  return {
    protocol: protocol as Protocol,
    ...(state === undefined ? {} : { state }),
    source: ask.from,
    sourcePort: ask.fromPort,
    originalDestination: ask.to,
    port: ask.toPort,
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

/** A reply of its own reaches the client only as coming from the port that it asked, which masquerading keeps. */
export function mayBeAnsweredLate({ state, port, replySourcePort: answerPort }: Flow): boolean {
  return port === answerPort && state !== "SYN_SENT";
}

/** What tells a client's connections apart. */
export function clientKey({ protocol, source, sourcePort, originalDestination: asked, port }: Flow): string {
  return [protocol, source, sourcePort, asked, port].join(" ");
}

/** Whether the host itself answers, at the address that was asked. */
export function isAnsweredByHost({ originalDestination: asked, replySource: answerer }: Flow): boolean {
  return asked === answerer;
}

/** Whether its state tells it apart from others that are alike: of the host's own, only what it has not answered is turned. */
export function needsStateFilter(flow: Flow): boolean {
  return isAnsweredByHost(flow) && flow.state !== undefined;
}
