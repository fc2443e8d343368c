import { findEarliest } from "../earliest.ts";
import { familyOf } from "../net/address.ts";
import type { Family, HostAddresses } from "../net/address.ts";
import { locateGuest } from "../identity/locate-guest.ts";
import type { ProbeResults, Incumbent, NeighbourProbe, LookupContext } from "../identity/lookup.ts";
import { indexUsable } from "../leases/usable-leases.ts";
import { findOwnAddresses } from "../leases/network.ts";
import type { Network } from "../leases/network.ts";
import { assignHostAddresses } from "./host-addresses.ts";
import type { Guest, PortMap } from "../config/port-map.ts";
import { identityText } from "../config/port-map.ts";
import { findNicBridges } from "../leases/nic-bridges.ts";
import { findPublishedFamilies, resolveForward } from "./resolved-forward.ts";
import type { ResolvedForward } from "./resolved-forward.ts";
import { toOutcome } from "./outcome.ts";
import { limitProbes } from "../identity/probe-budget.ts";

export interface Resolution {
  readonly forwards: readonly ResolvedForward[];
  readonly incumbents: readonly Incumbent[];
  /** When time alone changes the outcome (a lease ends, linger ends), epoch ms. */
  readonly wakeAtMs: number | undefined;
  /** The probes that the outcome depends on, as many as one pass may make. They do not depend on probe results. */
  readonly probes: readonly NeighbourProbe[];
}

/** What a pass has read, beside the config. */
export interface ResolveInputs {
  readonly networks: readonly Network[];
  readonly hostAddresses: HostAddresses;
  /** Time of the pass, epoch ms. */
  readonly nowMs: number;
  /** Results of the probes that {@link Resolution.probes} of a first resolution named; empty in that first one. */
  readonly probeResults: ProbeResults;
  /** Domains that libvirt runs; undefined where libvirt does not say. */
  readonly running: ReadonlySet<string> | undefined;
}

/**
 * Port map x leases x incumbents -> where every forward leads.
 * @param incumbents the outcome of the pass before (at start: what the kernel's rules say)
 */
export function resolveForwards(
  portMap: PortMap,
  incumbents: readonly Incumbent[],
  inputs: ResolveInputs,
): Resolution {
  const assignments = assignHostAddresses(portMap, inputs.hostAddresses);
  const context = toContext(portMap, inputs);
  const guests = portMap.guests.flatMap((guest) =>
    findPublishedFamilies(guest, assignments).map((family) => {
      const incumbent = findIncumbent(guest, family, incumbents);
      const located = locateGuest(guest, family, incumbent, context);
      const outcome = toOutcome(located, incumbent, guest, context);
      const forwards = guest.forwards.flatMap((forward) =>
        resolveForward(forward, family, assignments, outcome),
      );
      return { forwards, outcome, probes: located.probes };
    }),
  );
  return {
    forwards: guests.flatMap(({ forwards }) => forwards),
    incumbents: guests.flatMap(({ outcome }) => outcome.incumbent ?? []),
    wakeAtMs: findEarliest(guests.map(({ outcome }) => outcome.wakeAtMs)),
    probes: limitProbes(
      guests.map(({ probes }) => probes),
      inputs.nowMs,
    ),
  };
}

function toContext(
  { lingerMs }: PortMap,
  { networks, hostAddresses, nowMs, probeResults, running }: ResolveInputs,
): LookupContext {
  const facts = {
    networks,
    nicBridges: findNicBridges(networks),
    ownAddresses: findOwnAddresses(hostAddresses),
    nowMs,
  };
  return { ...facts, leases: indexUsable(facts), lingerMs, running, probeResults };
}

function findIncumbent(
  guest: Guest,
  family: Family,
  incumbents: readonly Incumbent[],
): Incumbent | undefined {
  const identity = identityText(guest);
  const mac = guest.identity.kind === "mac" ? guest.identity.mac : undefined;
  return incumbents.find(
    (each) =>
      each.guest === guest.name &&
      each.identity === identity &&
      (mac === undefined || each.mac === mac) &&
      familyOf(each.address) === family,
  );
}
