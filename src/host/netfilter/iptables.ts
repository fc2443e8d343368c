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

/** Timeout for iptables-legacy's lock (/run/xtables.lock); iptables-nft has no lock. */
const LOCK_WAIT_S = "5";
/** Timeout for iptables-restore, which takes half a second for 20,000 rules. */
const RESTORE_TIMEOUT_MS = 15_000;

/**
 * Chooses the variant.
 * @param setting of the config; `auto` takes the variant of the host's `iptables`
 */
export async function chooseIptables(setting: Variant | "auto"): Promise<Iptables> {
  if (setting !== "auto") return { variant: setting, infix: `-${setting}` };
  // Reading the name of the real file takes 0.1 ms, `--version` 3 ms.
  const file = await findProgram("iptables-save");
  const name = file === undefined ? "" : await fileBehind(file);
  if (/-(nft|legacy)(-multi)?$/.test(name))
    return { variant: name.includes("nft") ? "nft" : "legacy", infix: "" };
  const { stdout } = await runCommand(["iptables", "--version"]);
  return { variant: stdout.includes("nf_tables") ? "nft" : "legacy", infix: "" };
}

/** @returns "" when the link leads to a missing file, as while the package is upgraded */
async function fileBehind(link: string): Promise<string> {
  try {
    return await realpath(link);
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return "";
  }
}

/**
 * Finds the other variant if it may have rules. Packets pass the rules of both variants, and a config that changes the
 * variant leaves rules in the first.
 * @param known variants that kvmnatd has used. They decide when a caller without root cannot list the legacy tables:
 * reading a legacy table creates it, and iptables-nft then prints a warning to every user
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
  // iptables-legacy-save finds its tables in that list; a caller who cannot read it must name each table.
  const argvs = isClosed ? TABLES.map((table) => [save, "-t", table]) : [[save]];
  const stdout = (await Promise.all(argvs.map((argv) => launcher.read(argv)))).join("");
  const { incompatible, ...actual } = parseSave(stdout);
  const table = TABLES.find((each) => incompatible.includes(each));
  if (table === undefined) return actual;
  const ip = family === 4 ? "ip" : "ip6";
  throw new KvmnatdError(
    "incompatible-table",
    `table ${ip} ${table}: iptables cannot read it because another program put native nftables rules into it; ` +
      `find them with \`nft list table ${ip} ${table}\` and move them to a table of their own`,
  );
}

/** @returns the text of `iptables-save -c`: the rules with their counters */
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
 * Reads the kernel's list of legacy tables in this network namespace, without a program.
 * @returns undefined without root: capabilities do not permit reading the list
 */
function readLegacyTables(family: Family): string | undefined {
  try {
    return readFileSync(`/proc/net/${family === 4 ? "ip" : "ip6"}_tables_names`, "utf8").trim();
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    // Every other error: a kernel without legacy tables.
    return code === "EACCES" ? undefined : "";
  }
}

function program(tool: Iptables, family: Family, verb: "save" | "restore"): string {
  return `${family === 4 ? "iptables" : "ip6tables"}${tool.infix}-${verb}`;
}
