import type { Family } from "../core/address.ts";
import { LIBVIRT_TABLE, parseLibvirtTable } from "../core/libvirt-table.ts";
import type { LibvirtTable } from "../core/ruleset.ts";
import { CommandError } from "../errors.ts";
import { readCommand } from "./read-command.ts";
import { findProgram, runCommand } from "./run-command.ts";

/**
 * The families in which libvirt has an nftables table of its own. Without nft there is none: libvirt makes it by nft.
 */
export async function findLibvirtTables(): Promise<ReadonlySet<Family>> {
  if ((await findProgram("nft")) === undefined) return new Set();
  const tables = await orNothing(readCommand(["nft", "list", "tables"]));
  const lines = new Set(tables?.split("\n"));
  return new Set(([4, 6] as const).filter((family) => lines.has(`table ${nameOf(family)}`)));
}

/** @returns undefined when the table has gone */
export async function readLibvirtTable(family: Family): Promise<LibvirtTable | undefined> {
  const argv = ["nft", "--stateless", "--handle", "list", "table", ...nameOf(family).split(" ")];
  const text = await orNothing(readCommand(argv));
  return text === undefined ? undefined : parseLibvirtTable(text);
}

/** Applies the text as one transaction. */
export async function runNft(text: string): Promise<void> {
  await runCommand(["nft", "-f", "-"], { input: text });
}

function nameOf(family: Family): string {
  return `${family === 4 ? "ip" : "ip6"} ${LIBVIRT_TABLE}`;
}

/** "No such file": no such table. "Not supported": a kernel without nftables. */
async function orNothing(reading: Promise<string>): Promise<string | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof CommandError && /No such file|not supported/.test(error.stderr)) return undefined;
    throw error;
  }
}
