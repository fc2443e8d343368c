import { networkOf, parseCidr, parseIp, parseMac } from "../../src/net/address.ts";
import type { Cidr, Ip, Mac, Protocol } from "../../src/net/address.ts";
import type { Lease } from "../../src/leases/lease.ts";
import type { Network } from "../../src/leases/network.ts";
import type { Forward, Guest, Identity, PortMap } from "../../src/config/port-map.ts";
import { createIncumbent } from "../../src/identity/lookup.ts";
import type { Incumbent, LookupContext } from "../../src/identity/lookup.ts";
import { networkAddressKey } from "../../src/leases/lease-index.ts";
import { findNicBridges } from "../../src/leases/nic-bridges.ts";
import { indexUsable } from "../../src/leases/usable-leases.ts";
import type { HostAddresses } from "../../src/net/address.ts";
import type { ResolveInputs } from "../../src/forwards/resolve.ts";
import type { Listen } from "../../src/config/values/listen-address.ts";

/** Short ways to values for tests; each throws on a text that is none. */
export function ip(text: string): Ip {
  return demand(parseIp(text), text);
}

export function mac(text: string): Mac {
  return demand(parseMac(text), text);
}

function cidr(text: string): Cidr {
  return demand(parseCidr(text), text);
}

function demand<T>(value: T | undefined, text: string): T {
  if (value === undefined) throw new Error(`not a value: ${text}`);
  return value;
}

export const MAC_A: Mac = mac("52:54:00:6c:3c:01");
export const MAC_B: Mac = mac("52:54:00:6c:3c:02");
export const MAC_C: Mac = mac("52:54:00:6c:3c:03");
const ANY: Listen = { kind: "any", family: 4 };
const WHERE = { file: "kvmnatd.yaml" };
export const NOW = 1_795_000_000_000;

export function lease(address: string, owner: Mac, more: Partial<Lease> = {}): Lease {
  return {
    bridge: "virbr0",
    mac: owner,
    address: ip(address),
    hostname: undefined,
    expiresAtMs: NOW + 3_600_000,
    ...more,
  };
}

/** virbr0, up, with a subnet of each family. */
export function network(more: Partial<Network> = {}): Network {
  return {
    bridge: "virbr0",
    subnets: [
      { cidr: networkOf(ip("192.168.122.1"), 24), own: ip("192.168.122.1") },
      { cidr: networkOf(ip("fd00:122::1"), 64), own: ip("fd00:122::1") },
    ],
    leases: [],
    domains: [],
    ...more,
  };
}

interface ForwardWish {
  readonly published?: number | readonly [number, number];
  readonly target?: number | readonly [number, number];
  readonly protocol?: Protocol;
  readonly listen?: readonly Listen[];
  readonly allow?: readonly string[];
}

export function guest(
  name: string,
  identity: Identity,
  wishes: readonly ForwardWish[] = [{}],
  on?: string,
): Guest {
  const range = (ports: number | readonly [number, number]): { first: number; last: number } =>
    typeof ports === "number" ? { first: ports, last: ports } : { first: ports[0], last: ports[1] };
  const forwards = wishes.map(
    ({ published = 1122, target = 22, protocol = "tcp", listen = [ANY], allow = [] }): Forward => ({
      guest: name,
      protocol,
      published: range(published),
      target: range(target),
      listen,
      allow: allow.map(cidr),
      where: WHERE,
    }),
  );
  return { name, identity, forwards, where: WHERE, network: on };
}

export function domain(name: string): Identity {
  return { kind: "domain", domain: name };
}

export function portMap(guests: readonly Guest[], more: Partial<PortMap> = {}): PortMap {
  return {
    guests,
    networks: undefined,
    metrics: undefined,
    reach: { guests: true, host: true, loopback: false },
    resync: "*/5 * * * *",
    lingerMs: 5000,
    onStop: "keep",
    iptables: "auto",
    logLevel: "info",
    ...more,
  };
}

/** An incumbent of guest web, found by its domain's name, as the kernel's rules show it. */
export function incumbent(address: string, owner: Mac | undefined, more: Partial<Incumbent> = {}): Incumbent {
  return {
    ...createIncumbent({ guest: "web", identity: "", address: ip(address), mac: owner }),
    ...more,
  };
}

/** What a pass at {@link NOW} has read, without probe results. */
export function resolveInputs(
  networks: readonly Network[],
  hostAddresses: HostAddresses,
  more: Partial<ResolveInputs> = {},
): ResolveInputs {
  return { networks, hostAddresses, nowMs: NOW, probeResults: new Map(), running: undefined, ...more };
}

/**
 * What lookups of a pass at {@link NOW} know.
 * @param answers which MAC answers at an address of virbr0
 */
export function lookupContext(
  networks: readonly Network[],
  answers: Readonly<Record<string, Mac>> = {},
  more: Partial<LookupContext> = {},
): LookupContext {
  const facts = {
    networks,
    nicBridges: findNicBridges(networks),
    ownAddresses: new Map<Ip, string>(),
    nowMs: NOW,
  };
  const results = Object.entries(answers).map(
    ([address, owner]) => [networkAddressKey({ bridge: "virbr0", address: ip(address) }), owner] as const,
  );
  return {
    ...facts,
    leases: indexUsable(facts),
    lingerMs: 5000,
    running: undefined,
    probeResults: new Map(results),
    ...more,
  };
}
