import { cidrContains, isLoopback, LOOPBACK } from "../net/address.ts";
import type { Family, HostAddresses, Ip, PortRange } from "../net/address.ts";
import type { PortMap } from "../config/port-map.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import type { Network } from "../leases/network.ts";
import type { Flow } from "./flow.ts";

/** What decides where a new connection leads. */
export interface Forwarding {
  readonly forwards: readonly ResolvedForward[];
  readonly reach: PortMap["reach"];
  readonly addresses: HostAddresses;
  readonly networks: readonly Network[];
}

/** The same for one family, indexed: a table of connections has up to a quarter of a million entries. */
export interface ForwardingState {
  /** Active forwards, by `PROTOCOL PORT`, in the order of their rules. */
  readonly forwardsByPort: ReadonlyMap<string, readonly ResolvedForward[]>;
  readonly reach: PortMap["reach"];
  readonly localAddresses: ReadonlySet<Ip>;
  readonly networks: readonly Network[];
}

/** Where a rule leads a connection. */
export interface ExpectedTarget {
  readonly guest: string;
  readonly address: Ip;
  readonly port: number;
}

/** @param family the family of the connections that are compared with it */
export function createForwardingState(
  { forwards, reach, addresses, networks }: Forwarding,
  family: Family,
): ForwardingState {
  const active = forwards.filter((each) => each.family === family && each.target !== undefined);
  const byPort = Map.groupBy(
    active.flatMap((each) => portsOf(each.forward.published).map((port) => ({ port, each }))),
    ({ port, each }) => `${each.forward.protocol} ${port}`,
  );
  return {
    forwardsByPort: new Map([...byPort].map(([key, found]) => [key, found.map(({ each }) => each)])),
    reach,
    // 127.0.0.1 is the only loopback address that can be published.
    localAddresses: new Set([...[...addresses.values()].flat().filter((ip) => !isLoopback(ip)), LOOPBACK]),
    networks,
  };
}

/** Where the rules lead a new connection like this one; undefined: no rule redirects it. */
export function findExpectedTarget(flow: Flow, state: ForwardingState): ExpectedTarget | undefined {
  if (!passesJump(flow, state)) return undefined;
  const forward = forwardsOf(flow, state).find(({ forward: { allow } }) => admits(allow, flow.source));
  return forward && toExpectedTarget(flow, forward);
}

/** Where the rules of this address and port lead, whichever clients they admit. */
export function findTargetsOfPort(flow: Flow, state: ForwardingState): readonly ExpectedTarget[] {
  return forwardsOf(flow, state).map((forward) => toExpectedTarget(flow, forward));
}

/** Whether an address is the host's own. */
export function isHostAddress(ip: Ip, { localAddresses }: ForwardingState): boolean {
  return localAddresses.has(ip) || isLoopback(ip);
}

/** Whether an address lies in the subnet of a network, as every guest's does. The bridge's own address does not count. */
export function isGuestAddress(ip: Ip, state: ForwardingState): boolean {
  if (isHostAddress(ip, state)) return false;
  return state.networks.some(({ subnets }) => subnets.some(({ cidr }) => cidrContains(cidr, ip)));
}

/** The jumps' conditions: 127.0.0.1 has a jump of its own, so `reach.host` does not apply to it. */
function passesJump({ source, originalDestination }: Flow, state: ForwardingState): boolean {
  const { reach } = state;
  if (originalDestination === LOOPBACK) return reach.loopback;
  return (reach.host || !isHostAddress(source, state)) && (reach.guests || !isGuestAddress(source, state));
}

function forwardsOf(
  { protocol, port, originalDestination }: Flow,
  { forwardsByPort, localAddresses }: ForwardingState,
): readonly ResolvedForward[] {
  return (forwardsByPort.get(`${protocol} ${port}`) ?? []).filter(({ hostAddresses }) =>
    hostAddresses.length === 0
      ? localAddresses.has(originalDestination)
      : hostAddresses.includes(originalDestination),
  );
}

function admits(allow: ResolvedForward["forward"]["allow"], source: Ip): boolean {
  return allow.length === 0 || allow.some((cidr) => cidrContains(cidr, source));
}

function toExpectedTarget(flow: Flow, { forward, target }: ResolvedForward): ExpectedTarget {
  if (target === undefined) throw new Error("a forward without a target is not in the index");
  const port = forward.target.first + flow.port - forward.published.first;
  return { guest: forward.guest, address: target.address, port };
}

function portsOf({ first, last }: PortRange): readonly number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
