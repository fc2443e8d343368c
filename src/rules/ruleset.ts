import { CHAIN_PREFIX, GUARD_COMMENT, JUMP_COMMENT, MARK } from "./ownership.ts";

export type Table = "raw" | "filter" | "nat";
export const TABLES: readonly Table[] = ["raw", "filter", "nat"];

/** One of iptables' two implementations. */
export type Variant = "nft" | "legacy";

/** A rule as iptables-save prints it, without `-A CHAIN`. */
export type RuleText = string;

/** The rules of one table, by chain, in order. */
export type Chains = ReadonlyMap<string, readonly RuleText[]>;

/** The desired ruleset of one family. */
export interface Desired {
  /** The complete chains that kvmnatd owns. */
  readonly chains: Readonly<Record<Table, Chains>>;
  readonly jumps: readonly Jump[];
  /** Rules of our chain in libvirt's own nftables table; empty when libvirt uses iptables. */
  readonly libvirt: readonly RuleText[];
}

/** A rule of ours in a built-in chain, usually a jump to a chain of ours. */
export interface Jump {
  readonly table: Table;
  readonly chain: string;
  readonly rule: RuleText;
  /** Bridges: the rule must precede every rule that rejects all traffic to one of them. */
  readonly mustPrecedeRejectsFor: readonly string[] | undefined;
  /** A bridge: the rule must precede every rule that may accept what comes from it. */
  readonly mustPrecedeAcceptsFor: string | undefined;
}

/** The actual ruleset of one family. Foreign chains are read and never written. */
export interface Actual {
  readonly tables: Readonly<Record<Table, Chains>>;
  /** `TABLE CHAIN` of the built-in chains whose policy is DROP. */
  readonly dropping: ReadonlySet<string>;
  /** Absent when libvirt's nftables backend is not in use. */
  readonly libvirt?: LibvirtTable;
}

/** libvirt's own nftables table, by chain. */
export type LibvirtTable = ReadonlyMap<string, readonly NftRule[]>;

/** A rule as nft prints it, and the handle by which nft deletes it. */
export interface NftRule {
  readonly rule: RuleText;
  readonly handle: number;
}

const NO_CHAINS: Readonly<Record<Table, Chains>> = {
  raw: new Map(),
  filter: new Map(),
  nat: new Map(),
};
export const NOTHING_DESIRED: Desired = { chains: NO_CHAINS, jumps: [], libvirt: [] };

/** A quote within a word has no meaning: iptables-save prints names of links as they are. */
const WORD = /"(?:[^"\\]|\\.)*"(?=\s|$)|\S+/gs;

interface Word {
  readonly text: string;
  readonly quoted: boolean;
}

/** Splits a rule into words. iptables-save quotes a word with unusual characters and escapes quotes and `\` in it. */
function splitWords(rule: RuleText): readonly Word[] {
  const words = rule.match(WORD) ?? [];
  return words.map((word) =>
    /^".*"$/s.test(word)
      ? { text: word.slice(1, -1).replaceAll(/\\(.)/gs, "$1"), quoted: true }
      : { text: word, quoted: false },
  );
}

/** One option of a rule with its values, e.g. `! -d 127.0.0.0/8`. */
export interface RuleOption {
  readonly negated: boolean;
  readonly flag: string;
  readonly values: readonly string[];
}

/** Options with a freely chosen value: it may look like an option, and a plain one is not quoted. */
const FREE_VALUES: ReadonlySet<string> = new Set(
  (
    "-i -o --physdev-in --physdev-out --comment --log-prefix --nflog-prefix --string --name --hashlimit-name " +
    "--helper --match-set"
  ).split(" "),
);

export function splitOptions(rule: RuleText): readonly RuleOption[] {
  const options: { negated: boolean; flag: string; values: string[] }[] = [];
  let negated = false;
  for (const { text, quoted } of splitWords(rule)) {
    const last = options.at(-1);
    const isValue = quoted || (last?.values.length === 0 && FREE_VALUES.has(last.flag));
    if (isValue) last?.values.push(text);
    else if (text === "!") negated = true;
    else if (/^--?[A-Za-z]/.test(text)) {
      options.push({ negated, flag: text, values: [] });
      negated = false;
    } else last?.values.push(text);
  }
  return options;
}

/**
 * @returns the same key for all texts of one rule: versions and variants of iptables differ in the order of options, in
 * `-m tcp` after `-p tcp`, and in `/32`
 */
export function ruleKey(rule: RuleText): string {
  const options = splitOptions(rule);
  const protocol = options.find(({ flag }) => flag === "-p")?.values[0];
  // A module without options may be a condition: `-m socket`.
  return options
    .filter(({ flag, values }) => flag !== "-m" || values[0] !== protocol)
    .map(({ negated, flag, values }) => `${negated ? "! " : ""}${flag} ${stripHostPrefix(values.join(" "))}`)
    .toSorted()
    .join(" ");
}

/** Removes the mask of a single address: `/32`, or `/128` of an IPv6 address. */
export function stripHostPrefix(value: string): string {
  return value.replace(value.includes(":") ? /\/128$/ : /\/32$/, "");
}

export function optionOf(rule: RuleText, ...flags: readonly string[]): string | undefined {
  return splitOptions(rule).find((option) => flags.includes(option.flag))?.values[0];
}

/** @returns the target or chain of `-j` or `-g` */
export function targetOf(rule: RuleText): string | undefined {
  return optionOf(rule, "-j", "-g");
}

export function commentOf(rule: RuleText): string | undefined {
  return rule.includes(MARK) ? optionOf(rule, "--comment") : undefined;
}

export function isOwnedChain(name: string): boolean {
  return name.startsWith(CHAIN_PREFIX);
}

/**
 * Whether a rule in a foreign chain is ours: it jumps to a chain of ours, or has exactly the comment of our jumps or guards,
 * even if another program edited it. Every other rule is foreign.
 */
export function isOwnedRule(rule: RuleText): boolean {
  // Cheap test first: a host may have a hundred thousand foreign rules.
  if (!rule.includes(MARK) && !rule.includes(CHAIN_PREFIX)) return false;
  const comment = commentOf(rule);
  return comment === JUMP_COMMENT || comment === GUARD_COMMENT || isOwnedChain(targetOf(rule) ?? "");
}
