import type { Ip, Mac } from "../net/address.ts";

/** A dynamic MAC-address binding in DHCP, as libvirt's `<bridge>.status` tells it. */
export interface Lease {
  /** The network's bridge, e.g. `virbr0`: libvirt names the file after it. */
  readonly bridge: string;
  readonly mac: Mac;
  readonly address: Ip;
  /** What the guest says its name is. Data of a possibly hostile guest: print only through `printable`. */
  readonly hostname?: string;
  /** Epoch milliseconds; absent for an infinite lease. */
  readonly expiresAtMs?: number;
}

/** One row of libvirt's `<bridge>.macs`: the MACs of a running domain on this bridge. Written by libvirtd, not by guests. */
export interface DomainMacs {
  readonly bridge: string;
  readonly domain: string;
  readonly macs: readonly Mac[];
}

export function isLive(lease: Lease, nowMs: number): boolean {
  return lease.expiresAtMs === undefined || lease.expiresAtMs > nowMs;
}
