import type { Family } from "../core/address.ts";
import { LIBVIRT_TABLE, parseLibvirtTable } from "../core/libvirt-table.ts";
import type { LibvirtTable } from "../core/ruleset.ts";
import { readCommand } from "./read-command.ts";
import { runCommand } from "./run-command.ts";

/*
 * `nft list tables` would say whether there are any, but reads all sets of all tables to do so: a tenth of a second
 * where a firewall has 50,000 addresses in one (nftables 1.0.6). A single table is read alone.
 */
const LIST = "nft --stateless --handle list table";
/** libvirt makes both or none (10.4 to 12.8). */
const BOTH = `${LIST} ip ${LIBVIRT_TABLE} 2>&1 && ${LIST} ip6 ${LIBVIRT_TABLE} 2>&1; true`;

/** No such table; no nft; a kernel without nftables: then libvirt has none. */
const NONE = /No such file|not found|not supported/;

/**
 * libvirt's own tables, where its nftables backend is in use.
 * @throws CommandError when nft says anything else
 */
export async function readLibvirtTables(): Promise<ReadonlyMap<Family, LibvirtTable>> {
  const text = await readCommand(["sh", "-c", BOTH]);
  const tables = new Map<Family, LibvirtTable>();
  for (const part of text.split(/^(?=table |Error)/m)) {
    const ip = /^table (ip6?) /.exec(part)?.[1];
    if (ip !== undefined) tables.set(ip === "ip" ? 4 : 6, parseLibvirtTable(part));
    else if (part.trim() !== "" && !NONE.test(part))
      // Run alone it fails in the same way, and says whom to ask.
      await runCommand([...LIST.split(" "), "ip", LIBVIRT_TABLE]);
  }
  return tables;
}

/** Applies the text as one transaction. */
export async function runNft(text: string): Promise<void> {
  await runCommand(["nft", "-f", "-"], { input: text });
}
