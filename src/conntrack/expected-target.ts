import { cidrContains, isLoopback, LOOPBACK } from "../net/address.ts";
import type { Family, Ip, PortRange, HostAddresses } from "../net/address.ts";
import type { SuspectPorts } from "./changed-ports.ts";
import { needsStateFilter, isAnsweredByHost } from "./flow.ts";
import type { Flow } from "./flow.ts";
import type { Network } from "../leases/network.ts";
import type { PortMap } from "../config/port-map.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";

/** Where connections should lead. */
export interface ForwardingState {
  readonly forwards: readonly ResolvedForward[];
  readonly reach: PortMap["reach"];
  readonly addresses: HostAddresses;
  readonly networks: readonly Network[];
}

interface Verdict {
  readonly isStale: boolean;
  readonly guest?: string;
}

const RIGHT: Verdict = { isStale: false };

export interface FlowCheck {
  /** Whether any connection to this port may lead astray: quicker than reading it. */
  concerns(port: number): boolean;
  judge(flow: Flow): Verdict;
}

/** Knows where each connection should lead. @param family whose connections are judged */
export function createFlowCheck(
  doubt: SuspectPorts,
  expectation: ForwardingState,
  family: Family,
): FlowCheck {
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
  const isGuest = (ip: Ip): boolean => !isHost(ip) && isGuestAddress(ip, expectation.networks);
  const isAsked = ({ hostAddresses }: ResolvedForward, ip: Ip): boolean =>
    hostAddresses.length === 0 ? localAddresses.has(ip) : hostAddresses.includes(ip);
  // As the jumps say it: who asks 127.0.0.1 is the host, but reach.host is not about that.
  const passesJump = ({ source, originalDestination: asked }: Flow): boolean =>
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
      if (isAnsweredByHost(flow) && !isHost(flow.originalDestination)) return RIGHT;
      const here = (byPort.get(`${flow.protocol} ${flow.port}`) ?? [])
        .map(({ each }) => each)
        .filter((each) => isAsked(each, flow.originalDestination));
      const expected = passesJump(flow) ? here.find((each) => isAllowed(each, flow.source)) : undefined;
      const led = doubt.formerTargets.has(flow.replySource) || here.some((each) => leadsTo(flow, each));
      if (expected === undefined ? !led : leadsTo(flow, expected)) return RIGHT;
      // A login on the host itself must not break because its port is published now; who still knocks may turn.
      if (needsStateFilter(flow) && flow.state !== "SYN_SENT") return RIGHT;
      const guest = (expected ?? here[0])?.forward.guest;
      return { isStale: true, ...(guest === undefined ? {} : { guest }) };
    },
  };
}

/** Whether an address lies in one of libvirt's networks; the host's own do, too. */
export function isGuestAddress(ip: Ip, networks: readonly Network[]): boolean {
  return networks.some(({ subnets }) => subnets.some(({ cidr }) => cidrContains(cidr, ip)));
}

function leadsTo(flow: Flow, { forward, target }: ResolvedForward): boolean {
  const port = forward.target.first + flow.port - forward.published.first;
  return flow.replySource === target?.address && flow.replySourcePort === port;
}

function portsOf({ first, last }: PortRange): readonly number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
