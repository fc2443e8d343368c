import type { Family } from "../../net/address.ts";
import { LIBVIRT_TABLE, parseLibvirtTable } from "../../rules/libvirt-table.ts";
import type { LibvirtTable } from "../../rules/ruleset.ts";
import { CommandError } from "../../errors.ts";
import type { Launcher } from "../exec/launcher.ts";

const FAMILIES: readonly (readonly [family: Family, ip: "ip" | "ip6"])[] = [
  [4, "ip"],
  [6, "ip6"],
];

/*
 * Most hosts have neither table, which one run of nft shows. Listing the chains is cheap; `list tables` reads all sets of
 * all tables, which takes 0.25 s for a set of 50,000 addresses (nftables 1.0.6).
 */
const LIST_CHAINS = ["nft", "list", "chains"];
const listTable = (ip: string): readonly string[] => [
  ..."nft --stateless --handle list table".split(" "),
  ip,
  LIBVIRT_TABLE,
];

/** The table has gone, or the kernel has no nftables: libvirt has no table then. */
const NONE = /No such file|not supported/;

/**
 * Reads libvirt's own tables, which exist when its nftables backend is in use.
 * @throws CommandError when nft fails for another reason
 */
export async function readLibvirtTables(launcher: Launcher): Promise<ReadonlyMap<Family, LibvirtTable>> {
  const chains = await readNft(launcher, LIST_CHAINS);
  const there = FAMILIES.filter(([, ip]) => chains.includes(`table ${ip} ${LIBVIRT_TABLE} {`));
  const texts = await Promise.all(
    there.map(async ([family, ip]) => [family, await readNft(launcher, listTable(ip))] as const),
  );
  const known = texts.filter(([, text]) => text !== "");
  return new Map(known.map(([family, text]) => [family, parseLibvirtTable(text)]));
}

/** @returns empty when the table or nft does not exist */
async function readNft(launcher: Launcher, argv: readonly string[]): Promise<string> {
  try {
    return await launcher.read(argv);
  } catch (error) {
    if (error instanceof CommandError && (error.isMissing || NONE.test(error.stderr))) return "";
    throw error;
  }
}

/** Applies the text as one transaction. */
export async function runNft(launcher: Launcher, text: string): Promise<void> {
  await launcher.run(["nft", "-f", "-"], { input: text });
}
