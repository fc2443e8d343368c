import { familyOf } from "./address.ts";
import type { Family, Ip } from "./address.ts";
import type { Target } from "./find-guest.ts";
import type { HostAddresses } from "./network.ts";
import type { Forward, Guest } from "./port-map.ts";

/** A published port of the config with the guest's address of the moment, in one family. */
export interface ResolvedForward {
  readonly forward: Forward;
  readonly family: Family;
  /** The host's addresses it is published on; empty: any. */
  readonly hostAddresses: readonly Ip[];
  /** Absent: pending. */
  readonly target?: Target;
  /** Why it is pending, or what an admin should know of an active one. */
  readonly why?: string;
}

/** What the guest's state means for its forwards. */
export interface Outcome {
  readonly target?: Target;
  readonly why?: string;
}

/** Families that a guest's ports are published in. An interface counts with the families it has. */
export function familiesOf(guest: Guest, host: HostAddresses): readonly Family[] {
  const own = guest.identity.kind === "address" ? familyOf(guest.identity.address) : undefined;
  return ([4, 6] as const).filter(
    (family) =>
      (own === undefined || own === family) &&
      guest.forwards.some((forward) => listensIn(forward, family, host)),
  );
}

function listensIn(forward: Forward, family: Family, host: HostAddresses): boolean {
  return forward.listen.some((listen) => {
    switch (listen.kind) {
      case "any":
        return listen.family === family;
      case "address":
        return familyOf(listen.address) === family;
      case "interface": {
        const addresses = host.get(listen.name) ?? [];
        // An interface without any address yet is shown once, as IPv4, with the reason.
        return addresses.some((ip) => familyOf(ip) === family) || (addresses.length === 0 && family === 4);
      }
    }
  });
}

/** One resolved forward of one family; none where nothing is promised in it. */
export function publish(
  forward: Forward,
  family: Family,
  host: HostAddresses,
  outcome: Outcome,
): readonly ResolvedForward[] {
  if (!listensIn(forward, family, host)) return [];
  const { addresses, any, missing } = hostAddressesOf(forward, family, host);
  const base = { forward, family, hostAddresses: any ? [] : addresses };
  if (!letsIn(forward, family)) {
    const other = family === 4 ? 6 : 4;
    const elsewhere = listensIn(forward, other, host) && letsIn(forward, other);
    return elsewhere ? [] : [{ ...base, why: `\`allow\` has no IPv${family} source` }];
  }
  if (outcome.target === undefined) {
    // An interface's IPv6 address alone promises nothing: no line for a guest that has only IPv4.
    const implied = family === 6 && forward.listen.every((listen) => listen.kind === "interface");
    const other = implied && (listensIn(forward, 4, host) || undefined);
    return other ? [] : [{ ...base, ...(outcome.why === undefined ? {} : { why: outcome.why }) }];
  }
  const absent = missing.length === 0 ? undefined : `${missing.join(", ")}: not on this host (yet)`;
  const notes = [absent, outcome.why].filter((note) => note !== undefined);
  const why = notes.length === 0 ? {} : { why: notes.join("; ") };
  return [any || addresses.length > 0 ? { ...base, target: outcome.target, ...why } : { ...base, ...why }];
}

function letsIn({ allow }: Forward, family: Family): boolean {
  return allow.length === 0 || allow.some((cidr) => cidr.family === family);
}

function hostAddressesOf(
  forward: Forward,
  family: Family,
  host: HostAddresses,
): { readonly addresses: readonly Ip[]; readonly any: boolean; readonly missing: readonly string[] } {
  const local = new Set([...host.values()].flat());
  const addresses = new Set<Ip>();
  const missing: string[] = [];
  for (const listen of forward.listen) {
    if (listen.kind === "address" && familyOf(listen.address) === family) {
      if (local.has(listen.address) || listen.address.startsWith("127.")) addresses.add(listen.address);
      else missing.push(`address ${listen.address}`);
    }
    if (listen.kind === "interface") {
      const own = (host.get(listen.name) ?? []).filter((ip) => familyOf(ip) === family);
      if (own.length === 0 && family === 4) missing.push(`interface ${listen.name} has no address`);
      for (const ip of own) addresses.add(ip);
    }
  }
  const any = forward.listen.some((listen) => listen.kind === "any" && listen.family === family);
  return { addresses: [...addresses], any, missing };
}
