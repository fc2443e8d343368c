import { familyOf } from "./address.ts";
import type { Family } from "./address.ts";
import { findGuest, findUsableLeases } from "./find-guest.ts";
import type { Finding, Holder, Target, World } from "./find-guest.ts";
import { isLive } from "./lease.ts";
import type { HostAddresses, Network } from "./network.ts";
import { identityText } from "./owner.ts";
import type { Guest, PortMap } from "./port-map.ts";
import { familiesOf, publish } from "./publish.ts";
import type { Outcome, ResolvedForward } from "./publish.ts";

export interface Resolution {
  readonly forwards: readonly ResolvedForward[];
  readonly holders: readonly Holder[];
  /** When time alone changes the outcome (a lease expires, linger ends), epoch ms. */
  readonly wakeAtMs?: number;
}

/**
 * Port map x leases x incumbents -> where every forward leads.
 * @param holders the outcome of the pass before (or what the kernel's rules say, at start)
 */
export function resolveForwards(
  portMap: PortMap,
  networks: readonly Network[],
  host: HostAddresses,
  holders: readonly Holder[],
  nowMs: number,
): Resolution {
  const usable = findUsableLeases(networks, nowMs);
  const world: World = { networks, usable, nowMs, lingerMs: portMap.lingerMs };
  const forwards: ResolvedForward[] = [];
  const kept: Holder[] = [];
  const wakes: number[] = [];
  for (const guest of portMap.guests) {
    for (const family of familiesOf(guest, host)) {
      const holder = holderOf(guest, family, holders);
      const outcome = settle(findGuest(guest, family, holder, world), holder, guest, world);
      if (outcome.holder !== undefined) kept.push(outcome.holder);
      if (outcome.wakeAtMs !== undefined) wakes.push(outcome.wakeAtMs);
      for (const forward of guest.forwards) forwards.push(...publish(forward, family, host, outcome));
    }
  }
  const wakeAtMs = wakes.length === 0 ? undefined : Math.min(...wakes);
  return { forwards, holders: kept, ...(wakeAtMs === undefined ? {} : { wakeAtMs }) };
}

interface Settled extends Outcome {
  readonly holder?: Holder;
  readonly wakeAtMs?: number;
}

/** Turns a finding into an outcome: who vanished lingers, who is merely not heard of stays. */
function settle(finding: Finding, holder: Holder | undefined, guest: Guest, world: World): Settled {
  if (finding.state === "found") {
    const { lease, note } = finding;
    const now: Holder = {
      guest: guest.name,
      identity: identityText(guest),
      address: lease.address,
      ...(lease.mac === undefined ? {} : { mac: lease.mac }),
    };
    return {
      target: lease,
      holder: now,
      ...(note === undefined ? {} : { why: note }),
      ...(lease.expiresAtMs === undefined ? {} : { wakeAtMs: lease.expiresAtMs }),
    };
  }
  if (holder === undefined) return { why: finding.why };
  // The incumbent is remembered while its network is down: the name it holds must not be free for the taking.
  if (finding.state === "down") return { why: finding.why, holder };
  if (takenByOther(holder, world)) return { why: finding.why };
  const target: Target = {
    address: holder.address,
    ...(holder.mac === undefined ? {} : { mac: holder.mac }),
  };
  if (finding.state === "unknown") return { target, holder, why: `kept as it was: ${finding.why}` };
  const lostAtMs = holder.lostAtMs ?? world.nowMs;
  const endsAtMs = lostAtMs + world.lingerMs;
  if (world.nowMs >= endsAtMs) return { why: finding.why };
  return { target, holder: { ...holder, lostAtMs }, why: `${finding.why}; lingers`, wakeAtMs: endsAtMs };
}

function holderOf(guest: Guest, family: Family, holders: readonly Holder[]): Holder | undefined {
  const identity = identityText(guest);
  return holders.find(
    (each) => each.guest === guest.name && each.identity === identity && familyOf(each.address) === family,
  );
}

function takenByOther(holder: Holder, world: World): boolean {
  return world.networks.some((network) =>
    network.leases?.some(
      (lease) => lease.address === holder.address && lease.mac !== holder.mac && isLive(lease, world.nowMs),
    ),
  );
}
