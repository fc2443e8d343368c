import type { Ip, Mac } from "../net/address.ts";

/** A dynamic MAC-address binding in DHCP, as libvirt's `<bridge>.status` lists it. */
export interface Lease {
  /** The network's bridge, e.g. `virbr0`: libvirt names the file after it. */
  readonly bridge: string;
  readonly mac: Mac;
  readonly address: Ip;
  /** The name that the guest sent. It may be hostile: print it only through `printable`. */
  readonly hostname: string | undefined;
  /** Epoch ms; undefined for an infinite lease. */
  readonly expiresAtMs: number | undefined;
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
