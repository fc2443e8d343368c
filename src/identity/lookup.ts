import type { Ip, Mac } from "../net/address.ts";
import type { LeaseIndex, Place } from "../leases/lease-index.ts";
import type { LeaseContext } from "../leases/usable-leases.ts";
import type { Silence } from "./recheck.ts";

/** Who holds a guest's forwards now: the incumbent. Read back from the kernel at start. */
export interface Holder {
  readonly guest: string;
  /** How the guest was found then (identityText): another way of finding it starts without incumbent. */
  readonly identity: string;
  readonly address: Ip;
  /** Absent for a guest with an address of its own. */
  readonly mac?: Mac;
  /** When its lease ends, epoch ms; absent: never, or unknown. */
  readonly expiresAtMs?: number;
  /** Since when nothing vouches for it (epoch ms); absent while a live lease does. */
  readonly lostAtMs?: number;
  /** Since when it is not clear which address is the guest's (epoch ms); absent while it is. */
  readonly inDoubtSinceMs?: number;
  /** The address before, while nobody answers at this one: it may have been left wrongly. */
  readonly left?: Ip;
  /** Nobody has answered at its only address yet; absent once it did. */
  readonly silence?: Silence;
  /** When it moved lately (epoch ms), see restless.ts; absent: it did not. */
  readonly movedAtMs?: readonly number[];
}

/** Where a forward leads. */
export interface Target {
  readonly address: Ip;
  readonly mac?: Mac;
  readonly expiresAtMs?: number;
}

export interface World extends LeaseContext {
  readonly leases: LeaseIndex;
  readonly lingerMs: number;
  /** Domains that libvirt runs; absent where it does not say. */
  readonly running?: ReadonlySet<string>;
  /** Which MAC answers at an address; undefined: none, or nobody has asked yet. */
  ask(question: Question): Mac | undefined;
}

/**
 * What is known of a guest in one family. `gone` waits for linger, `vanished` too unless the guest still answers,
 * `unknown` keeps the incumbent, `down` drops at once, `contested` too, to be asked again.
 */
export type Finding =
  | Found
  | { readonly state: "vanished"; readonly why: string; readonly askAgain?: boolean }
  | { readonly state: "gone" | "unknown" | "down" | "contested"; readonly why: string };

export interface Found {
  readonly state: "found";
  readonly lease: Target;
  readonly note?: string;
  /** Others than this one could be the guest's address: to be asked again. */
  readonly inDoubt?: boolean;
  /** See {@link Holder.left}. */
  readonly left?: Ip;
  /** See {@link Holder.silence}. */
  readonly silence?: Silence;
}

/** Somebody to be asked whether they have an address. */
export type Question = Place;

/** Who answered at a place, by {@link placeKey}; undefined: nobody did. Those that were not asked are missing. */
export type Answers = ReadonlyMap<string, Mac | undefined>;
