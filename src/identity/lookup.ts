import type { Ip, Mac } from "../net/address.ts";
import type { LeaseIndex, NetworkAddress } from "../leases/lease-index.ts";
import type { LeaseContext } from "../leases/usable-leases.ts";
import type { Unanswered } from "./recheck.ts";

/** Who holds a guest's forwards now: the incumbent. Read back from the kernel at start. */
export interface Incumbent {
  readonly guest: string;
  /** How the guest was found then (identityText): another way of lookup it starts without incumbent. */
  readonly identity: string;
  readonly address: Ip;
  /** Absent for a guest with an address of its own. */
  readonly mac?: Mac;
  /** When its lease ends, epoch ms; absent: never, or unknown. */
  readonly expiresAtMs?: number;
  /** Since when nothing vouches for it (epoch ms); absent while a live lease does. */
  readonly leaseLostAtMs?: number;
  /** Since when it is not clear which address is the guest's (epoch ms); absent while it is. */
  readonly ambiguousSinceMs?: number;
  /** The address before, while nobody answers at this one: it may have been left wrongly. */
  readonly previousAddress?: Ip;
  /** Nobody has answered at its only address yet; absent once it did. */
  readonly unanswered?: Unanswered;
  /** When it moved lately (epoch ms), see restless.ts; absent: it did not. */
  readonly recentMovesAtMs?: readonly number[];
}

/** Where a forward leads. */
export interface Target {
  readonly address: Ip;
  readonly mac?: Mac;
  readonly expiresAtMs?: number;
}

export interface LookupContext extends LeaseContext {
  readonly leases: LeaseIndex;
  readonly lingerMs: number;
  /** Domains that libvirt runs; absent where it does not say. */
  readonly running?: ReadonlySet<string>;
  /** Which MAC answers at an address; undefined: none, or nobody has asked yet. */
  ask(question: NeighbourProbe): Mac | undefined;
}

/**
 * What is known of a guest in one family. `gone` waits for linger, `vanished` too unless the guest still answers,
 * `unknown` keeps the incumbent, `down` drops at once, `contested` too, to be asked again.
 */
export type LookupResult =
  | Found
  | { readonly state: "lease-missing"; readonly why: string; readonly askAgain?: boolean }
  | { readonly state: "absent" | "unreadable" | "network-down" | "mac-mismatch"; readonly why: string };

export interface Found {
  readonly state: "found";
  readonly lease: Target;
  readonly note?: string;
  /** Others than this one could be the guest's address: to be asked again. */
  readonly isAmbiguous?: boolean;
  /** See {@link Incumbent.previousAddress}. */
  readonly previousAddress?: Ip;
  /** See {@link Incumbent.unanswered}. */
  readonly unanswered?: Unanswered;
}

/** Somebody to be asked whether they have an address. */
export type NeighbourProbe = NetworkAddress;

/** Who answered at a place, by {@link placeKey}; undefined: nobody did. Those that were not asked are missing. */
export type ProbeResults = ReadonlyMap<string, Mac | undefined>;
