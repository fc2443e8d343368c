import type { Ip, Mac } from "../net/address.ts";
import type { LeaseIndex, NetworkAddress } from "../leases/lease-index.ts";
import type { LeaseContext } from "../leases/usable-leases.ts";
import type { Reason } from "./reason.ts";
import type { Doubt, Recheck } from "./recheck.ts";

/** The MAC and address that a guest's forwards lead to now, in one family. Read back from the kernel at start. */
export interface Incumbent {
  readonly guest: string;
  /** How the guest was identified (identityText). A guest with another identity starts without an incumbent. */
  readonly identity: string;
  readonly address: Ip;
  /** Undefined for a guest that the config gives a fixed address. */
  readonly mac: Mac | undefined;
  /** End of its lease, epoch ms; undefined: the lease is infinite, or its end is unknown. */
  readonly expiresAtMs: number | undefined;
  /** When its lease was lost, epoch ms; undefined while a live lease or an answer confirms it. */
  readonly leaseLostAtMs: number | undefined;
  /** Undefined while its address is confirmed. */
  readonly recheck: Recheck | undefined;
  /** The address before this one, while no neighbour answers at this one: the move may have been wrong. */
  readonly previousAddress: Ip | undefined;
  /** Times of the latest moves, epoch ms, see flapping.ts. */
  readonly recentMovesAtMs: readonly number[];
}

/** An incumbent of which only the kernel's rules are known. */
export function createIncumbent(known: Pick<Incumbent, "guest" | "identity" | "address" | "mac">): Incumbent {
  return {
    ...known,
    expiresAtMs: undefined,
    leaseLostAtMs: undefined,
    recheck: undefined,
    previousAddress: undefined,
    recentMovesAtMs: [],
  };
}

/** The guest address that a forward leads to. */
export interface Target {
  readonly address: Ip;
  readonly mac: Mac | undefined;
  /** End of the lease, epoch ms. */
  readonly expiresAtMs: number | undefined;
}

export interface LookupContext extends LeaseContext {
  readonly leases: LeaseIndex;
  readonly lingerMs: number;
  /** Domains that libvirt runs; undefined where libvirt does not say. */
  readonly running: ReadonlySet<string> | undefined;
  readonly probeResults: ProbeResults;
}

/**
 * What is known of a guest in one family.
 *
 *   found            the forwards lead to its address
 *   lease-missing    the incumbent's lease vanished: lingers
 *   absent           the guest is off, or its lease expired: lingers
 *   unreadable       libvirt's files cannot be read: the incumbent stays
 *   network-down     no forward, at once; the incumbent is remembered
 *   address-refused  the config gives an address that cannot be a guest's: the same
 *   name-conflict    several guests claim its host name: the same
 *   mac-mismatch     another MAC answers at its lease: no forward, at once; probed again
 */
export type LookupResult =
  | Found
  | {
      readonly state: "lease-missing";
      readonly why: Reason;
      /** Another MAC answers at the guest's other leases: probed again. */
      readonly isContested: boolean;
    }
  | { readonly state: WithoutAddress; readonly why: Reason };

type WithoutAddress =
  "absent" | "unreadable" | "network-down" | "address-refused" | "name-conflict" | "mac-mismatch";

export interface Found {
  readonly state: "found";
  readonly target: Target;
  readonly note: Reason | undefined;
  /** What the probes have not settled. */
  readonly doubt: Doubt;
  /** See {@link Incumbent.previousAddress}. */
  readonly previousAddress: Ip | undefined;
}

export function createFound(target: Target, more: Partial<Omit<Found, "state" | "target">> = {}): Found {
  return {
    state: "found",
    target: { address: target.address, mac: target.mac, expiresAtMs: target.expiresAtMs },
    note: undefined,
    doubt: "none",
    previousAddress: undefined,
    ...more,
  };
}

/**
 * A lookup result, and the probes whose results it depends on, the most important first. The probes are the same
 * whatever their results are, so one round of probes suffices.
 */
export type Located<Result extends LookupResult = LookupResult> = Result & {
  readonly probes: readonly NeighbourProbe[];
};

/** One ARP or NDP question: which MAC has this address on this bridge. */
export type NeighbourProbe = NetworkAddress;

/** The MAC that answered each probe, by networkAddressKey; undefined: none did. Probes that were not made are missing. */
export type ProbeResults = ReadonlyMap<string, Mac | undefined>;
