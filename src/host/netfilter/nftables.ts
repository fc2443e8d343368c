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
 * Most hosts have neither table, and one start of nft tells. Of its lists that of the chains is cheap: `list tables` reads all
 * sets of all tables, a quarter of a second where a firewall has 50,000 addresses in one (nftables 1.0.6).
 */
const LIST_CHAINS = ["nft", "list", "chains"];
const listTable = (ip: string): readonly string[] => [
  ..."nft --stateless --handle list table".split(" "),
  ip,
  LIBVIRT_TABLE,
];

/** The table has gone; a kernel without nftables: then libvirt has none. */
const NONE = /No such file|not supported/;

/**
 * libvirt's own tables, where its nftables backend is in use.
 * @throws CommandError when nft says anything else
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

/** @returns empty where there is no such table, or no nft */
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
