import type { Actual, Chains, Table } from "./ruleset.ts";
import { TABLES } from "./ruleset.ts";

/** Number of packets and bytes that a rule has matched. */
interface Counters {
  readonly packets: number;
  readonly bytes: number;
}

/** A rule with its counters. */
export interface CountedRule {
  readonly rule: string;
  readonly counters: Counters;
}

export interface SaveText extends Actual {
  /** Tables that iptables cannot read because another program put native nftables rules into them. */
  readonly incompatible: readonly string[];
}

/**
 * Parses the output of `iptables-save`. Foreign rules are kept as they are.
 * For a table that it cannot read, iptables-save prints a comment and exits with 0 (iptables 1.8).
 */
export function parseSave(text: string): SaveText {
  const tables: Record<Table, Map<string, string[]>> = { raw: new Map(), filter: new Map(), nat: new Map() };
  const incompatible: string[] = [];
  const dropping = new Set<string>();
  let name = "";
  let table: Map<string, string[]> | undefined;
  for (const line of splitLines(text)) {
    const first = line[0];
    if (first === "-") addRule(table, line);
    else if (first === ":") {
      const [chain = "", policy] = line.slice(1).split(" ");
      table?.set(chain, []);
      if (policy === "DROP") dropping.add(`${name} ${chain}`);
    } else if (first === "*") {
      name = line.slice(1).trim();
      table = tableOf(tables, name);
    } else if (first === "#")
      incompatible.push(...(/^# Table `(\w+)' is incompatible/.exec(line)?.slice(1) ?? []));
  }
  return { tables: tables satisfies Record<Table, Chains>, dropping, incompatible };
}

/** A line ends where no quote is open, because iptables-save prints the line breaks of a comment as they are. */
const LINE = /(?:[^"\n]+|(?<= )"(?:[^"\\]|\\.)*"(?=[ \n]|$)|")+/gs;

function splitLines(text: string): readonly string[] {
  const lines = text.split("\n");
  return lines.some(mayBeOpen) ? (text.match(LINE) ?? []) : lines;
}

/** A cheap test, true for hardly any of 100,000 rules: the last quote opens a word, or is one of the comment's own. */
function mayBeOpen(line: string): boolean {
  const before = line[line.lastIndexOf('"') - 1];
  return before === " " || before === "\\";
}

function tableOf(
  tables: Record<Table, Map<string, string[]>>,
  name: string,
): Map<string, string[]> | undefined {
  const known = TABLES.find((table) => table === name);
  return known === undefined ? undefined : tables[known];
}

function addRule(table: Map<string, string[]> | undefined, line: string): void {
  const end = line.indexOf(" ", 3);
  const chain = line.slice(3, end === -1 ? undefined : end);
  table?.get(chain)?.push(end === -1 ? "" : line.slice(end + 1));
}

/** Parses the counters of the chains with this prefix from `iptables-save -c`, in the order of the rules. */
export function parseCounters(text: string, chainPrefix: string): readonly CountedRule[] {
  const found = [];
  for (const line of splitLines(text)) {
    const match = /^\[(\d+):(\d+)\] -A (\S+) (.*)$/s.exec(line);
    if (match?.[3]?.startsWith(chainPrefix) !== true || match[4] === undefined) continue;
    found.push({ rule: match[4], counters: { packets: Number(match[1]), bytes: Number(match[2]) } });
  }
  return found;
}
