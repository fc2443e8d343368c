import { readFileSync } from "node:fs";
import { realpath } from "node:fs/promises";
import type { Family } from "../../net/address.ts";
import { parseSave } from "../../rules/parse-save.ts";
import { TABLES } from "../../rules/ruleset.ts";
import type { Actual, Variant } from "../../rules/ruleset.ts";
import { errnoOf, KvmnatdError } from "../../errors.ts";
import type { Launcher } from "../exec/launcher.ts";
import { findProgram } from "../exec/programs.ts";
import { runCommand } from "../exec/run-command.ts";
import type { Iptables } from "../../host-interface.ts";

/** Seconds that iptables-legacy waits for its lock (/run/xtables.lock); iptables-nft takes none. */
const LOCK_WAIT_S = "5";
/** A restore of 20,000 rules takes half a second; what takes longer than this hangs. */
const RESTORE_TIMEOUT_MS = 15_000;

/**
 * Which programs to use.
 * @param setting the config's `iptables`; `auto` takes what `iptables` on this host is
 */
export async function chooseIptables(setting: Variant | "auto"): Promise<Iptables> {
  if (setting !== "auto") return { variant: setting, infix: `-${setting}` };
  // The name of the real file tells in a tenth of a millisecond what `--version` tells in three.
  const file = await findProgram("iptables-save");
  const name = file === undefined ? "" : await fileBehind(file);
  if (/-(nft|legacy)(-multi)?$/.test(name))
    return { variant: name.includes("nft") ? "nft" : "legacy", infix: "" };
  const { stdout } = await runCommand(["iptables", "--version"]);
  return { variant: stdout.includes("nf_tables") ? "nft" : "legacy", infix: "" };
}

/** @returns empty when it cannot be told: the package is just being replaced */
async function fileBehind(link: string): Promise<string> {
  try {
    return await realpath(link);
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return "";
  }
}

/**
 * The other variant, where it has rules here: packets pass both, and a config that changes from one to the other
 * leaves the first one's behind.
 * @param known variants that kvmnatd has used: only root is told whether there are legacy tables, and to ask for one
 * makes it, which iptables-nft warns everybody of
 */
export async function otherIptables(
  used: Iptables,
  family: Family,
  known: ReadonlySet<Variant>,
): Promise<Iptables | undefined> {
  const other: Iptables =
    used.variant === "nft" ? { variant: "legacy", infix: "-legacy" } : { variant: "nft", infix: "-nft" };
  if (other.variant === "legacy") {
    const names = readLegacyTables(family);
    if (names === undefined ? !known.has("legacy") : names === "") return undefined;
  }
  return (await findProgram(program(other, family, "save"))) === undefined ? undefined : other;
}

/** @throws KvmnatdError when a table that kvmnatd needs cannot be read by iptables */
export async function readRules(launcher: Launcher, tool: Iptables, family: Family): Promise<Actual> {
  const save = program(tool, family, "save");
  const isClosed = tool.variant === "legacy" && readLegacyTables(family) === undefined;
  // iptables-legacy-save finds its tables by that list; without it each must be named.
  const argvs = isClosed ? TABLES.map((table) => [save, "-t", table]) : [[save]];
  const stdout = (await Promise.all(argvs.map((argv) => launcher.read(argv)))).join("");
  const { incompatible, ...actual } = parseSave(stdout);
  const table = TABLES.find((each) => incompatible.includes(each));
  if (table === undefined) return actual;
  const ip = family === 4 ? "ip" : "ip6";
  throw new KvmnatdError(
    "incompatible-table",
    `table ${ip} ${table}: iptables cannot read it, somebody put native nftables rules into it; ` +
      `find them with \`nft list table ${ip} ${table}\` and move them to a table of their own`,
  );
}

/** Text of `iptables-save -c`: the rules with their counters. */
export async function readCounters(tool: Iptables, family: Family): Promise<string> {
  const { stdout } = await runCommand([program(tool, family, "save"), "-c", "-t", "nat"]);
  return stdout;
}

/** Applies the text; each table in it is all or nothing. */
export async function restoreRules(
  launcher: Launcher,
  tool: Iptables,
  family: Family,
  text: string,
): Promise<void> {
  const argv = [program(tool, family, "restore"), "--noflush", "-w", LOCK_WAIT_S];
  await launcher.run(argv, { input: text, timeoutMs: RESTORE_TIMEOUT_MS });
}

/**
 * The kernel lists the legacy tables of this network namespace; no program need be run to see that there are none.
 * @returns undefined for who is not root: the list is for root's eyes, whatever its capabilities of the network
 */
function readLegacyTables(family: Family): string | undefined {
  try {
    return readFileSync(`/proc/net/${family === 4 ? "ip" : "ip6"}_tables_names`, "utf8").trim();
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    // Anything else: a kernel without them.
    return code === "EACCES" ? undefined : "";
  }
}

function program(tool: Iptables, family: Family, verb: "save" | "restore"): string {
  return `${family === 4 ? "iptables" : "ip6tables"}${tool.infix}-${verb}`;
}
