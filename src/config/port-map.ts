import type { Cidr, Ip, Mac, PortRange, Protocol } from "../net/address.ts";
import type { Endpoint } from "./values/endpoint.ts";
import type { SourceLocation } from "../diagnostic.ts";
import type { Listen } from "./values/listen-address.ts";
import { encodeForComment } from "../sanitize.ts";

/** How kvmnatd finds a guest. */
export type Identity =
  | { readonly kind: "domain"; readonly domain: string }
  | { readonly kind: "mac"; readonly mac: Mac }
  | { readonly kind: "address"; readonly address: Ip }
  | { readonly kind: "hostname"; readonly hostname: string };

/** One published port or range of one protocol. `both` in the config makes two of them. */
export interface Forward {
  readonly guest: string;
  readonly protocol: Protocol;
  readonly published: PortRange;
  /** As long as `published`. */
  readonly target: PortRange;
  readonly listen: readonly Listen[];
  /** Sources that may connect; empty: every client. */
  readonly allow: readonly Cidr[];
  readonly where: SourceLocation;
}

export interface Guest {
  /** The key in the config. */
  readonly name: string;
  readonly identity: Identity;
  /** The bridge to search; undefined: every served bridge. */
  readonly network: string | undefined;
  readonly forwards: readonly Forward[];
  readonly where: SourceLocation;
}

/** The config, checked. */
export interface PortMap {
  readonly guests: readonly Guest[];
  /** Bridges to serve; undefined: every bridge with a lease file. */
  readonly networks: readonly string[] | undefined;
  readonly reach: { readonly guests: boolean; readonly host: boolean; readonly loopback: boolean };
  /** Cron expression of the full verify. */
  readonly resync: string;
  readonly lingerMs: number;
  readonly onStop: "keep" | "remove";
  readonly iptables: "auto" | "nft" | "legacy";
  /** Where Prometheus may read metrics; undefined: nowhere. */
  readonly metrics: Endpoint | undefined;
  readonly logLevel: "trace" | "debug" | "info" | "warn" | "error" | "fatal";
}

/** Text that changes when a guest's identity changes; empty for a domain of the guest's own name. */
export function identityText(guest: Guest): string {
  const { identity } = guest;
  switch (identity.kind) {
    case "domain":
      return identity.domain === guest.name ? "" : `domain=${encodeForComment(identity.domain)}`;
    case "mac":
      return "mac";
    case "address":
      return "address";
    case "hostname":
      return `hostname=${encodeForComment(identity.hostname)}`;
  }
}

export type LogLevel = PortMap["logLevel"];
