import { cidrContains, isLoopback, LOOPBACK, parseIp } from "./address.ts";
import type { Family, Ip, PortRange, Protocol } from "./address.ts";
import type { Doubt } from "./doubt.ts";
import type { HostAddresses, Network } from "./network.ts";
import type { PortMap } from "./port-map.ts";
import type { ResolvedForward } from "./publish.ts";

/*
 * The kernel decides once a connection where it leads, and keeps to it: a UDP client that never pauses would go on
 * asking the guest's old address, or the host itself if it began before its port was published. Such entries are
 * removed; the next packet is then decided anew.
 */

/** A connection that the kernel tracks: who asked which port of the host, and who answers. */
export interface Flow {
  readonly protocol: Protocol;
  /** As the kernel names it; udp has none. */
  readonly state?: string;
  readonly source: Ip;
  readonly sourcePort: number;
  readonly asked: Ip;
  readonly port: number;
  readonly answerer: Ip;
  readonly answerPort: number;
}

const TUPLE = String.raw`src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) `;
const FLOW = new RegExp(String.raw`^(tcp|udp|sctp) +\d+ (?:\d+ )?(?:([A-Z_0-9]+) )?${TUPLE}.*?${TUPLE}`);

/** Whose packet the kernel took for the first of a connection. */
export type Beginner = "client" | "answerer";

/**
 * Reads a line of `conntrack -L` (conntrack-tools 1.4.6 to 1.4.8); undefined for other protocols.
 * @param beginner who is to be taken for the client: the one who began it, or the one who was answered by it
 */
export function parseFlow(line: string, beginner: Beginner = "client"): Flow | undefined {
  const [, protocol, state, ...ends] = FLOW.exec(line) ?? [];
  const [original, reply] = [readTuple(ends.slice(0, 4)), readTuple(ends.slice(4))];
  if (original === undefined || reply === undefined) return undefined;
  const [ask, answer] = beginner === "client" ? [original, reply] : [reply, original];
  return {
    protocol: protocol as Protocol,
    ...(state === undefined ? {} : { state }),
    source: ask.from,
    sourcePort: ask.fromPort,
    asked: ask.to,
    port: ask.toPort,
    answerer: answer.from,
    answerPort: answer.fromPort,
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

/** Where connections should lead. */
export interface Expectation {
  readonly forwards: readonly ResolvedForward[];
  readonly reach: PortMap["reach"];
  readonly addresses: HostAddresses;
  readonly networks: readonly Network[];
}

/** Connections that are removed by one command: all that are like this one lead astray. */
export interface StaleFlows {
  /** One of them; what the command goes by they have in common. */
  readonly flow: Flow;
  readonly flows: readonly Flow[];
  readonly beginner: Beginner;
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
  doubt: Doubt,
  expectation: Expectation,
  family: Family,
): readonly StaleFlows[] {
  const judge = createJudge(doubt, expectation, family);
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
  expectation: Expectation,
  family: Family,
): readonly StaleFlows[] {
  if (cut.length === 0) return [];
  const clients = new Set(cut.map(clientKey));
  const doubt: Doubt = {
    ports: cut.map(({ protocol, port }) => ({ protocol, range: { first: port, last: port } })),
    formerTargets: new Set(cut.flatMap((flow) => (isOwn(flow) ? [] : [flow.answerer]))),
  };
  const judge = createJudge(doubt, expectation, family);
  const stale: Astray[] = [];
  const right = new Set<string>();
  for (const line of lines) {
    if (!judge.concerns(Number.parseInt(line.slice(line.lastIndexOf(PORT) + PORT.length), 10))) continue;
    const flow = parseFlow(line, "answerer");
    if (flow === undefined) continue;
    const verdict = judge.judge(flow);
    if (verdict.isStale && clients.has(clientKey(flow))) stale.push({ flow, ...verdict });
    else right.add(portKey(flow));
  }
  return joinClients(stale, right, "answerer");
}

const PORT = " dport=";

/** A reply of its own reaches the client only as coming from the port that it asked, which masquerading keeps. */
export function mayBeAnsweredLate({ state, port, answerPort }: Flow): boolean {
  return port === answerPort && state !== "SYN_SENT";
}

/** What tells a client's connections apart. */
export function clientKey({ protocol, source, sourcePort, asked, port }: Flow): string {
  return [protocol, source, sourcePort, asked, port].join(" ");
}

interface Astray {
  readonly flow: Flow;
  readonly guest?: string;
}

/** @param right what is alike and must stay, see {@link portKey} */
function joinClients(
  stale: readonly Astray[],
  right: ReadonlySet<string>,
  beginner: Beginner,
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
    const only = { byPort: true, bySource: right.has(portKey(flow)), byState: isByState(flow) };
    return [{ flow, flows, beginner, ...(guest === undefined ? {} : { guest }), ...only }];
  });
}

/** So many ports of one guest are removed at once, if it has no other connection that would go with them. */
const MANY_PORTS = 8;

function joinPorts(found: readonly StaleFlows[], lines: readonly string[]): readonly StaleFlows[] {
  const groups = Map.groupBy(found, ({ flow, bySource }) =>
    bySource || isOwn(flow) ? undefined : guestKey(flow),
  );
  return [...groups].flatMap(([key, group]) => {
    const [first] = group;
    if (key === undefined || first === undefined || group.length < MANY_PORTS) return group;
    const ports = new Set(group.map(({ flow }) => portKey(flow)));
    const others = lines.some((line) => {
      if (!line.includes(` src=${first.flow.answerer} `)) return false;
      const flow = parseFlow(line);
      return flow !== undefined && guestKey(flow) === key && !ports.has(portKey(flow));
    });
    return others ? group : [{ ...first, flows: group.flatMap(({ flows }) => flows), byPort: false }];
  });
}

function guestKey({ protocol, asked, answerer }: Flow): string {
  return [protocol, asked, answerer].join(" ");
}

function portKey(flow: Flow): string {
  return [guestKey(flow), flow.port, flow.answerPort, isByState(flow) && flow.state].join(" ");
}

function isOwn({ asked, answerer }: Flow): boolean {
  return asked === answerer;
}

function isByState(flow: Flow): boolean {
  return isOwn(flow) && flow.state !== undefined;
}

interface Verdict {
  readonly isStale: boolean;
  readonly guest?: string;
}

const RIGHT: Verdict = { isStale: false };

interface Judge {
  concerns(port: number): boolean;
  judge(flow: Flow): Verdict;
}

function createJudge(doubt: Doubt, expectation: Expectation, family: Family): Judge {
  const { reach } = expectation;
  const doubted = new Set(
    doubt.ports.flatMap(({ protocol, range }) => portsOf(range).map((port) => `${protocol} ${port}`)),
  );
  const doubtedPorts = new Set(doubt.ports.flatMap(({ range }) => portsOf(range)));
  const byPort = Map.groupBy(
    expectation.forwards
      .filter((each) => each.family === family && each.target !== undefined)
      .flatMap((each) => portsOf(each.forward.published).map((port) => ({ port, each }))),
    ({ port, each }) => `${each.forward.protocol} ${port}`,
  );
  const others = [...expectation.addresses.values()].flat().filter((ip) => !isLoopback(ip));
  const localAddresses = new Set([...others, LOOPBACK]);
  const isHost = (ip: Ip): boolean => localAddresses.has(ip) || isLoopback(ip);
  const isGuest = (ip: Ip): boolean =>
    !isHost(ip) &&
    expectation.networks.some(({ subnets }) => subnets.some(({ cidr }) => cidrContains(cidr, ip)));
  const isAsked = ({ hostAddresses }: ResolvedForward, ip: Ip): boolean =>
    hostAddresses.length === 0 ? localAddresses.has(ip) : hostAddresses.includes(ip);
  // As the jumps say it: who asks 127.0.0.1 is the host, but reach.host is not about that.
  const passesJump = ({ source, asked }: Flow): boolean =>
    asked === LOOPBACK
      ? reach.loopback
      : (reach.host || !isHost(source)) && (reach.guests || !isGuest(source));
  const isAllowed = ({ forward: { allow } }: ResolvedForward, ip: Ip): boolean =>
    allow.length === 0 || allow.some((cidr) => cidrContains(cidr, ip));
  return {
    concerns: (port) => doubtedPorts.has(port),
    judge(flow) {
      if (!doubted.has(`${flow.protocol} ${flow.port}`)) return RIGHT;
      // Somebody's own connection to a guest's address: no rule of ours led it there.
      if (isOwn(flow) && !isHost(flow.asked)) return RIGHT;
      const here = (byPort.get(`${flow.protocol} ${flow.port}`) ?? [])
        .map(({ each }) => each)
        .filter((each) => isAsked(each, flow.asked));
      const expected = passesJump(flow) ? here.find((each) => isAllowed(each, flow.source)) : undefined;
      const led = doubt.formerTargets.has(flow.answerer) || here.some((each) => leadsTo(flow, each));
      if (expected === undefined ? !led : leadsTo(flow, expected)) return RIGHT;
      // A login on the host itself must not break because its port is published now; who still knocks may turn.
      if (isByState(flow) && flow.state !== "SYN_SENT") return RIGHT;
      const guest = (expected ?? here[0])?.forward.guest;
      return { isStale: true, ...(guest === undefined ? {} : { guest }) };
    },
  };
}

function leadsTo(flow: Flow, { forward, target }: ResolvedForward): boolean {
  const port = forward.target.first + flow.port - forward.published.first;
  return flow.answerer === target?.address && flow.answerPort === port;
}

function portsOf({ first, last }: PortRange): readonly number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
