import { distinctBy } from "../distinct-by.ts";
import { networkAddressKey } from "../leases/lease-index.ts";
import type { NeighbourProbe } from "./lookup.ts";

/*
 * Each ARP or NDP probe creates an entry in the kernel's neighbour table. The table holds about 1,000 entries for all
 * networks and namespaces of the host, and a hostile guest can take any number of leases. So the number of probes is
 * limited, and those beyond the limit take turns. The turn follows from the time of the pass: no state is needed.
 */

/** Maximum number of newest leases of one MAC that every pass probes. */
export const MAX_NEWEST_LEASES: number = 8;
/** Maximum number of its other leases that one pass probes. */
const MAX_ROTATED_LEASES = 4;
/** Maximum number of probes per pass, for all guests together. */
const MAX_PROBES_PER_PASS = 256;

/** The candidates whose turn it is in the pass at this time (epoch ms). */
export function rotateCandidates<T>(others: readonly T[], nowMs: number): readonly T[] {
  return rotate(others, nowMs).slice(0, MAX_ROTATED_LEASES);
}

/**
 * The probes that one pass makes: the first one of each guest, and a quarter of the room at least for the others.
 * @param byGuest the probes of each guest, the most important first
 * @param nowMs time of the pass, epoch ms
 */
export function limitProbes(
  byGuest: readonly (readonly NeighbourProbe[])[],
  nowMs: number,
): readonly NeighbourProbe[] {
  const all = distinctBy(byGuest.flat(), networkAddressKey);
  if (all.length <= MAX_PROBES_PER_PASS) return all;
  const firstOfGuests = byGuest.flatMap((probes) => probes.slice(0, 1));
  const first = distinctBy(firstOfGuests, networkAddressKey);
  const firstKeys = new Set(first.map(networkAddressKey));
  const others = all.filter((probe) => !firstKeys.has(networkAddressKey(probe)));
  const room = Math.max(MAX_PROBES_PER_PASS - first.length, MAX_PROBES_PER_PASS / 4);
  const turn = rotate(others, nowMs).slice(0, room);
  return [...rotate(first, nowMs).slice(0, MAX_PROBES_PER_PASS - turn.length), ...turn];
}

function rotate<T>(all: readonly T[], nowMs: number): readonly T[] {
  const start = all.length === 0 ? 0 : nowMs % all.length;
  return [...all.slice(start), ...all.slice(0, start)];
}
