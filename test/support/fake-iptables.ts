import type { Actual, Table } from "../../src/rules/ruleset.ts";
import { TABLES } from "../../src/rules/ruleset.ts";
import { parseSave } from "../../src/rules/parse-save.ts";

type Chains = Map<string, string[]>;

const BUILT_IN: Readonly<Record<Table, readonly string[]>> = {
  raw: ["PREROUTING", "OUTPUT"],
  filter: ["INPUT", "FORWARD", "OUTPUT"],
  nat: ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
};

/** What the kernel and iptables do, as far as kvmnatd uses it. The contract suite holds it to the real ones. */
export interface FakeIptables {
  /** Takes `iptables-restore --noflush` input. Each table is all or nothing; throws iptables' way when one fails. */
  restore(text: string): void;
  /** What `iptables-save` prints, without comments and counters. */
  save(): string;
  read(): Actual;
}

interface State {
  readonly tables: Readonly<Record<Table, Chains>>;
  /** Of built-in chains, by `TABLE CHAIN`; one that is not here accepts. */
  readonly policies: Map<string, string>;
}

export function createFakeIptables(initial = ""): FakeIptables {
  let state: State = { tables: emptyTables(), policies: new Map() };
  const fake: FakeIptables = {
    restore(text) {
      for (const section of text.split(/^COMMIT$/m).filter((part) => part.includes("*"))) {
        const next = structuredClone(state);
        for (const line of section.split("\n").filter((each) => each !== "")) applyLine(next, section, line);
        state = next;
      }
    },
    save: () => TABLES.map((table) => printTable(table, state)).join(""),
    read: () => parseSave(fake.save()),
  };
  fake.restore(initial);
  return fake;
}

function emptyTables(): Record<Table, Chains> {
  const build = (table: Table): Chains => new Map(BUILT_IN[table].map((chain) => [chain, []]));
  return { raw: build("raw"), filter: build("filter"), nat: build("nat") };
}

function applyLine({ tables, policies }: State, section: string, line: string): void {
  if (line.startsWith("*")) return;
  const table = tableOf(section);
  const chains = tables[table];
  const [word = "", chain = "", ...rest] = line.split(" ");
  if (word.startsWith(":") && BUILT_IN[table].includes(word.slice(1)))
    policies.set(`${table} ${word.slice(1)}`, chain);
  else if (word.startsWith(":")) chains.set(word.slice(1), []);
  else if (word === "-A") rulesOf(chains, chain).push(rest.join(" "));
  else if (word === "-I") insert(rulesOf(chains, chain), rest);
  else if (word === "-D") remove(rulesOf(chains, chain), rest.join(" "));
  else if (word === "-X") drop(chains, chain);
  else throw new Error(`fake iptables: unknown line ${line}`);
}

function tableOf(section: string): Table {
  const name = /^\*(\w+)$/m.exec(section)?.[1];
  const table = TABLES.find((each) => each === name);
  if (table === undefined) throw new Error(`fake iptables: no table in ${section}`);
  return table;
}

function rulesOf(chains: Chains, chain: string): string[] {
  const rules = chains.get(chain);
  if (rules === undefined) throw new Error(`No chain/target/match by that name: ${chain}`);
  return rules;
}

function insert(rules: string[], [position, ...words]: readonly string[]): void {
  const at = Number(position);
  if (!Number.isInteger(at) || at < 1 || at > rules.length + 1)
    throw new Error(`Index of insertion too big: ${position}`);
  rules.splice(at - 1, 0, words.join(" "));
}

/** @param rule its words, or its place */
function remove(rules: string[], rule: string): void {
  const at = /^\d+$/.test(rule) ? Number(rule) - 1 : rules.indexOf(rule);
  if (rules[at] === undefined)
    throw new Error(`Bad rule (does a matching rule exist in that chain?): ${rule}`);
  rules.splice(at, 1);
}

function drop(chains: Chains, chain: string): void {
  if (rulesOf(chains, chain).length > 0) throw new Error(`Directory not empty: ${chain}`);
  for (const rules of chains.values())
    if (rules.some((rule) => rule.endsWith(`-j ${chain}`))) throw new Error(`Too many links: ${chain}`);
  chains.delete(chain);
}

function printTable(table: Table, { tables, policies }: State): string {
  const chains = tables[table];
  const policyOf = (chain: string): string =>
    BUILT_IN[table].includes(chain) ? (policies.get(`${table} ${chain}`) ?? "ACCEPT") : "-";
  const names = [...chains.keys()].map((chain) => `:${chain} ${policyOf(chain)} [0:0]\n`);
  const rules = [...chains].flatMap(([chain, own]) => own.map((rule) => `-A ${chain} ${rule}\n`));
  return `*${table}\n${names.join("")}${rules.join("")}COMMIT\n`;
}
