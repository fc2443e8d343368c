import { readNftBridges } from "../rules/libvirt-table.ts";
import type { Actual, Variant } from "../rules/ruleset.ts";
import { optionOf, targetOf } from "../rules/ruleset.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createError, createWarning } from "../diagnostic.ts";

/**
 * Finds jumps to libvirt's chains that another program has flushed. libvirt restores them only when it starts; until then
 * every host that routes to the guests reaches them. kvmnatd reports it and changes nothing.
 */
export function findMissingJump(actual: Actual | undefined): readonly Diagnostic[] {
  if (actual === undefined) return [];
  const jumps = actual.tables.filter.get("FORWARD")?.map((rule) => targetOf(rule)) ?? [];
  const nftJumps = actual.libvirt?.get("forward") ?? [];
  return [
    ...(jumps.includes("LIBVIRT_FWI")
      ? []
      : describeMissing("LIBVIRT_FWI", "FORWARD", findRejectedInIptables(actual))),
    ...(nftJumps.some(({ rule }) => /\bjump guest_input\b/.test(rule))
      ? []
      : describeMissing(
          "guest_input",
          "the chain forward of table libvirt_network",
          findRejectedInNft(actual),
        )),
  ];
}

/** @returns the bridges for which libvirt rejects new connections from outside, in either of its backends */
export function findRejectedBridges(actual: Actual): readonly string[] {
  return [...findRejectedInIptables(actual), ...findRejectedInNft(actual)];
}

function findRejectedInIptables({ tables }: Actual): readonly string[] {
  const rejects = tables.filter.get("LIBVIRT_FWI")?.filter((rule) => targetOf(rule) === "REJECT") ?? [];
  return rejects.flatMap((rule) => optionOf(rule, "-o") ?? []);
}

function findRejectedInNft({ libvirt }: Actual): readonly string[] {
  return readNftBridges(libvirt?.get("guest_input")?.filter(({ rule }) => /\breject\b/.test(rule)));
}

function describeMissing(chain: string, from: string, bridges: readonly string[]): readonly Diagnostic[] {
  if (bridges.length === 0) return [];
  const message =
    `libvirt's jump to ${chain} is missing from ${from}, another program flushed it: guests on ${bridges.join(", ")} are ` +
    "open to every host that routes to them; `systemctl restart libvirtd` restores it";
  return [createWarning("libvirt-jump-missing", message)];
}

/**
 * Finds libvirt's rejects in the other variant of iptables. Packets pass both variants, so kvmnatd's accepts do not help.
 * @param used the variant that kvmnatd uses
 * @param other the rules of the other variant
 */
export function findRejectElsewhere(
  used: Variant,
  other: Actual | undefined,
  bridges: readonly string[],
): readonly Diagnostic[] {
  const jumps = other?.tables.filter.get("FORWARD")?.map((rule) => targetOf(rule)) ?? [];
  if (other === undefined || !jumps.includes("LIBVIRT_FWI")) return [];
  const rejected = findRejectedInIptables(other).filter((bridge) => bridges.includes(bridge));
  if (rejected.length === 0) return [];
  const variant = used === "nft" ? "legacy" : "nft";
  const message =
    `libvirt's rules for ${rejected.join(", ")} are in iptables-${variant}, and reject there what iptables-${used} lets in: ` +
    `set \`iptables: ${variant}\` if libvirt uses that; else they are left over: \`iptables-${variant} -F LIBVIRT_FWI\``;
  return [createError("libvirt-rules-in-other-variant", message)];
}
