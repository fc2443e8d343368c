import { formatCidr } from "../net/address.ts";
import type { Cidr, Family } from "../net/address.ts";
import { JUMP_COMMENT, sharedComment } from "./ownership.ts";
import { optionOf } from "./ruleset.ts";
import type { Actual, LibvirtTable, NftRule, RuleText } from "./ruleset.ts";

/*
 * libvirt's nftables backend rejects in its own base chain, and no accept elsewhere overrules that. A chain of ours in
 * libvirt's table, with one jump before libvirt's, survives libvirt's restarts, reloads and net-starts:
 *
 *   table ip libvirt_network
 *     chain forward      jump kvmnatd, jump guest_cross, jump guest_input (rejects), jump guest_output
 *     chain kvmnatd      accepts redirected packets and the replies to them
 */
export const LIBVIRT_TABLE = "libvirt_network";
const OUR_CHAIN = "kvmnatd";
const FORWARD = "forward";
const JUMP: RuleText = `jump ${OUR_CHAIN} comment "${JUMP_COMMENT}"`;

interface NftChangeBase {
  readonly table: typeof LIBVIRT_TABLE;
  readonly chain: string;
}

/** One step from the actual to the desired rules in libvirt's own table. */
export type NftChange = NftChangeBase &
  (
    | { readonly kind: "create-chain" | "delete-chain" }
    | {
        readonly kind: "remove";
        readonly rule: RuleText;
        readonly handle: number;
        /** libvirt's first rule that our jump must precede; undefined in our own chain, or without such a rule or jump. */
        readonly blocker: RuleText | undefined;
      }
    | { readonly kind: "add"; readonly rule: RuleText; readonly last: boolean }
  );

/** A line ends where no quote is open, because nft prints the line breaks of a comment as they are and escapes nothing. */
const LINE = /(?:[^"\n]+|"[^"]*"(?=[\s,]|$)|")+/g;

/** Parses the output of `nft --stateless --handle list table` (nftables 1.0.6 to 1.1.7). */
export function parseLibvirtTable(text: string): LibvirtTable {
  const chains = new Map<string, NftRule[]>();
  let rules: NftRule[] | undefined;
  for (const line of text.match(LINE) ?? []) {
    const chain = /^\tchain (\S+) \{/.exec(line)?.[1];
    if (chain !== undefined) {
      // While other programs change rules, nft 1.0.6 was seen to list a chain several times without its rules.
      rules = chains.get(chain) ?? [];
      chains.set(chain, rules);
      continue;
    }
    const [, rule, handle] = /^\t\t(.*\S)\s+# handle (\d+)$/s.exec(line) ?? [];
    if (rule !== undefined && rules?.every((each) => each.handle !== Number(handle)) === true)
      rules.push({ rule, handle: Number(handle) });
  }
  return chains;
}

/**
 * Finds the bridges whose rules libvirt keeps in its nftables table. While libvirt rewrites its rules (about 0.3 s), a
 * bridge is in neither backend. Until its rules appear in iptables, kvmnatd's own rules show which backend was used.
 */
export function findNftBridges(actual: Actual | undefined): ReadonlySet<string> {
  const table = actual?.libvirt;
  if (actual === undefined || table === undefined) return new Set();
  const libvirts = readNftBridges(table.get("guest_input"));
  const ours = readNftBridges(table.get(OUR_CHAIN));
  const iptables = new Set(actual.tables.filter.get("LIBVIRT_FWI")?.map((rule) => optionOf(rule, "-o")));
  return new Set([...libvirts, ...ours.filter((bridge) => !iptables.has(bridge))]);
}

/** @returns the bridges to which the packets go that these rules match */
export function readNftBridges(rules: readonly NftRule[] = []): readonly string[] {
  return rules.flatMap(({ rule }) => /^oif(?:name)? "([^"]+)"/.exec(rule)?.slice(1) ?? []);
}

/** Builds the rules of our chain for one network. They name the bridge, because its index changes with every net-start. */
export function buildNftForwardRules(bridge: string, cidr: Cidr): readonly RuleText[] {
  const ip = cidr.family === 4 ? "ip" : "ip6";
  const end = `ct status dnat counter accept comment "${sharedComment(bridge)}"`;
  return [
    `oifname "${bridge}" ${ip} daddr ${formatCidr(cidr)} ${end}`,
    `iifname "${bridge}" ${ip} saddr ${formatCidr(cidr)} ct direction reply ${end}`,
  ];
}

/**
 * @param desired rules of our chain; empty: neither chain nor jump
 * @param actual libvirt's table, which kvmnatd never creates; undefined: libvirt's nftables backend is not in use
 */
export function diffLibvirtTable(
  desired: readonly RuleText[],
  actual: LibvirtTable | undefined,
): readonly NftChange[] {
  if (actual === undefined || !actual.has(FORWARD)) return [];
  const wanted = new Set(desired);
  const own = actual.get(OUR_CHAIN);
  const removed = own?.filter(({ rule }) => !wanted.delete(rule)) ?? [];
  const added = [...wanted].map((rule) => change(OUR_CHAIN, { kind: "add", rule, last: true }));
  const jumps = diffJump(desired.length > 0, actual);
  return [
    ...(own === undefined && desired.length > 0 ? [change(OUR_CHAIN, { kind: "create-chain" })] : []),
    ...jumps.filter(({ kind }) => kind === "remove"),
    ...removed.map((each) => change(OUR_CHAIN, { kind: "remove", ...each, blocker: undefined })),
    ...added,
    ...jumps.filter(({ kind }) => kind === "add"),
    ...(own !== undefined && desired.length === 0 ? [change(OUR_CHAIN, { kind: "delete-chain" })] : []),
  ];
}

/** Keeps one jump before every rule that may reject; every other rule with its comment in libvirt's chains goes. */
function diffJump(wanted: boolean, actual: LibvirtTable): readonly NftChange[] {
  const forward = actual.get(FORWARD) ?? [];
  const first = forward.findIndex(
    ({ rule }) => !isOwned(rule) && /\b(jump|goto|reject|drop)\b/.test(wordsOf(rule)),
  );
  const ahead = first === -1 ? forward : forward.slice(0, first);
  const kept = wanted ? ahead.find(({ rule }) => rule === JUMP) : undefined;
  const blocker = wanted ? forward[first]?.rule : undefined;
  const surplus = [...actual].flatMap(([chain, rules]) =>
    chain === OUR_CHAIN
      ? []
      : rules
          .filter((each) => isOwned(each.rule) && each !== kept)
          .map((each) => change(chain, { kind: "remove", ...each, blocker })),
  );
  if (!wanted || kept !== undefined) return surplus;
  return [...surplus, change(FORWARD, { kind: "add", rule: JUMP, last: false })];
}

function isOwned(rule: RuleText): boolean {
  return (
    rule.endsWith(` comment "${JUMP_COMMENT}"`) ||
    new RegExp(`\\b(jump|goto) ${OUR_CHAIN}\\b`).test(wordsOf(rule))
  );
}

/** Removes quoted text, because a comment may contain anything. (nft has no quote inside quotes.) */
function wordsOf(rule: RuleText): string {
  return rule.replaceAll(/"[^"]*"/g, '""');
}

type Step<T = NftChange> = T extends NftChange ? Omit<T, keyof NftChangeBase> : never;

function change(chain: string, step: Step): NftChange {
  return { table: LIBVIRT_TABLE, chain, ...step };
}

/** @returns input for `nft -f`, one transaction; it fails as a whole when libvirt's table has gone */
export function renderNft(family: Family, changes: readonly NftChange[]): string {
  return changes.map((each) => `${renderNftChange(family, each)}\n`).join("");
}

export function renderNftChange(family: Family, each: NftChange): string {
  const chain = `${family === 4 ? "ip" : "ip6"} ${each.table} ${each.chain}`;
  switch (each.kind) {
    case "create-chain":
      return `add chain ${chain}`;
    case "delete-chain":
      return `delete chain ${chain}`;
    case "remove":
      return `delete rule ${chain} handle ${each.handle}`;
    case "add":
      return `${each.last ? "add" : "insert"} rule ${chain} ${each.rule}`;
  }
}
