import { cidrContains, familyOf, parseIp } from "./address.ts";
import type { Family, Ip, PortRange, Protocol } from "./address.ts";
import type { FamilyChange } from "./narrate.ts";
import type { HostAddresses, Network } from "./network.ts";
import type { PortMap } from "./port-map.ts";
import type { ResolvedForward } from "./publish.ts";
import type { ForwardStatus } from "./status.ts";
import { destinationOf, optionOf, targetOf } from "./ruleset.ts";

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
  readonly asked: Ip;
  readonly port: number;
  readonly answerer: Ip;
  readonly answerPort: number;
}

const FLOW =
  /^(tcp|udp|sctp) +\d+ (?:\d+ )?(?:([A-Z_0-9]+) )?src=(\S+) dst=(\S+) sport=\d+ dport=(\d+) .*?src=(\S+) dst=\S+ sport=(\d+) /;

/** Reads a line of `conntrack -L` (conntrack-tools 1.4.6 to 1.4.8); undefined for other protocols. */
export function parseFlow(line: string): Flow | undefined {
  const [, protocol, state, from = "", to = "", port, by = "", answerPort] = FLOW.exec(line) ?? [];
  const [source, asked, answerer] = [parseIp(from), parseIp(to), parseIp(by)];
  if (source === undefined || asked === undefined || answerer === undefined) return undefined;
  const ports = { port: Number(port), answerPort: Number(answerPort) };
  const known = state === undefined ? {} : { state };
  return { protocol: protocol as Protocol, ...known, source, asked, answerer, ...ports };
}

/** Ports whose connections may lead elsewhere than they should. */
export interface Doubt {
  readonly ports: readonly { readonly protocol: string; readonly range: PortRange }[];
  /** Where rules led that are gone. */
  readonly formerTargets: ReadonlySet<Ip>;
}

/** What the rules that a pass added and removed leave in doubt, by family. */
export function doubtAfter(changes: readonly FamilyChange[], family: Family): Doubt {
  const ports: Doubt["ports"][number][] = [];
  const formerTargets = new Set<Ip>();
  for (const { family: own, change } of changes) {
    if (own !== family || change.table !== "nat" || !("rule" in change)) continue;
    const { rule, kind } = change;
    if (targetOf(rule) !== "DNAT") continue;
    const [first, last = first] = (optionOf(rule, "--dport") ?? "").split(":").map(Number);
    if (first === undefined || last === undefined) continue;
    ports.push({ protocol: optionOf(rule, "-p") ?? "", range: { first, last } });
    const target = destinationOf(rule);
    if (kind === "remove" && target !== undefined) formerTargets.add(target);
  }
  return { ports, formerTargets };
}

/** Nothing is known of what came before: every published port. */
export function doubtAll(forwards: readonly ResolvedForward[], family: Family): Doubt {
  const ports = forwards
    .filter((each) => each.family === family && each.target !== undefined)
    .map(({ forward }) => ({ protocol: forward.protocol, range: forward.published }));
  return { ports, formerTargets: new Set() };
}

/** What a daemon published that ended before it could remove the connections: of ports that may be nobody's any more. */
export function doubtFormer(forwards: readonly ForwardStatus[], family: Family): Doubt {
  const led = forwards.filter((each) => each.family === family && each.address !== null);
  return {
    ports: led.map(({ protocol, published }) => {
      const [first = 0, last = first] = published.split("-").map(Number);
      return { protocol, range: { first, last } };
    }),
    formerTargets: new Set(led.flatMap(({ address }) => parseIp(address ?? "") ?? [])),
  };
}

/** Where connections should lead. */
export interface Expectation {
  readonly forwards: readonly ResolvedForward[];
  readonly reach: PortMap["reach"];
  readonly addresses: HostAddresses;
  readonly networks: readonly Network[];
}

/** Connections that are removed together: all that look alike lead astray. */
export interface StaleFlows {
  readonly flow: Flow;
  /** Whose port it is; absent when it is nobody's any more. */
  readonly guest?: string;
  /** Other clients of the same port may rightly lead elsewhere: only this client's. */
  readonly bySource: boolean;
  /** Only those in this state: an answered one is the host's own. */
  readonly byState: boolean;
}

/**
 * Of the lines of `conntrack -L`, those that lead astray.
 * @param family of the lines
 */
export function findStaleFlows(
  lines: Iterable<string>,
  doubt: Doubt,
  expectation: Expectation,
  family: Family,
): readonly StaleFlows[] {
  const judge = createJudge(doubt, expectation, family);
  const found = new Map<string, StaleFlows>();
  for (const line of lines) {
    // Cheap test first: there may be a quarter of a million of them.
    if (!judge.concerns(Number(/ dport=(\d+)/.exec(line)?.[1]))) continue;
    const flow = parseFlow(line);
    const stale = flow === undefined ? undefined : judge.stale(flow);
    if (stale !== undefined) found.set(keyOf(stale), stale);
  }
  return [...found.values()];
}

function keyOf({ flow, bySource, byState }: StaleFlows): string {
  const { protocol, asked, port, answerer, answerPort, source, state } = flow;
  return [protocol, asked, port, answerer, answerPort, bySource && source, byState && state].join(" ");
}

interface Judge {
  concerns(port: number): boolean;
  stale(flow: Flow): StaleFlows | undefined;
}

function createJudge(doubt: Doubt, expectation: Expectation, family: Family): Judge {
  const { reach } = expectation;
  const doubted = new Set(doubt.ports.flatMap(({ range }) => portsOf(range)));
  const byPort = Map.groupBy(
    expectation.forwards
      .filter((each) => each.family === family && each.target !== undefined)
      .flatMap((each) => portsOf(each.forward.published).map((port) => ({ port, each }))),
    ({ port, each }) => `${each.forward.protocol} ${port}`,
  );
  const localAddresses = new Set([...expectation.addresses.values()].flat());
  const isHost = (ip: Ip): boolean => localAddresses.has(ip) || isLoopback(ip);
  const isGuest = (ip: Ip): boolean =>
    !isHost(ip) &&
    expectation.networks.some(({ subnets }) => subnets.some(({ cidr }) => cidrContains(cidr, ip)));
  const isAsked = ({ hostAddresses }: ResolvedForward, ip: Ip): boolean =>
    isLoopback(ip)
      ? reach.loopback
      : (hostAddresses.length === 0 ? localAddresses : new Set(hostAddresses)).has(ip);
  const isReached = ({ forward: { allow } }: ResolvedForward, ip: Ip): boolean =>
    (reach.host || !isHost(ip)) &&
    (reach.guests || !isGuest(ip)) &&
    (allow.length === 0 || allow.some((cidr) => cidrContains(cidr, ip)));
  return {
    concerns: (port) => doubted.has(port),
    stale(flow) {
      if (
        !doubt.ports.some(({ protocol, range }) => protocol === flow.protocol && contains(range, flow.port))
      )
        return undefined;
      const here = (byPort.get(`${flow.protocol} ${flow.port}`) ?? [])
        .map(({ each }) => each)
        .filter((each) => isAsked(each, flow.asked));
      const expected = here.find((each) => isReached(each, flow.source));
      if (expected === undefined ? !doubt.formerTargets.has(flow.answerer) : leadsTo(flow, expected))
        return undefined;
      const own = flow.answerer === flow.asked;
      // A login on the host itself must not break because its port is published now; who still knocks may turn.
      if (own && flow.state !== undefined && flow.state !== "SYN_SENT") return undefined;
      const bySource = !reach.host || !reach.guests || here.some(({ forward }) => forward.allow.length > 0);
      const guest = (expected ?? here[0])?.forward.guest;
      return {
        flow,
        ...(guest === undefined ? {} : { guest }),
        bySource,
        byState: own && flow.state !== undefined,
      };
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

function contains({ first, last }: PortRange, port: number): boolean {
  return first <= port && port <= last;
}

function isLoopback(ip: Ip): boolean {
  return familyOf(ip) === 4 ? ip.startsWith("127.") : ip === "::1";
}
