import type { Family } from "../net/address.ts";
import { findMoves, withoutMoves } from "./repair-limit.ts";
import type { Change, Diff, IptablesChange } from "./diff.ts";
import { LIBVIRT_TABLE, renderNft, renderNftChange } from "./libvirt-table.ts";
import type { NftChange } from "./libvirt-table.ts";
import { isOwnedChain } from "./ruleset.ts";
import type { Desired, RuleText, Table } from "./ruleset.ts";

/** Input for iptables-restore or nft. */
export interface RestoreScript {
  readonly input: string;
  /** Number of rules that it adds and removes; the kernel reports an event for each. */
  readonly ruleCount: number;
}

/** One run of a program. */
export interface Operation extends RestoreScript {
  readonly program: "iptables-restore" | "nft";
}

/** Orders the programs: accept before redirect, and the reverse when rules go. @returns nothing for an empty diff */
export function planOperations(family: Family, diff: Diff): readonly Operation[] {
  const nft = diff.filter(isNft);
  const iptables = diff.filter((change) => !isNft(change));
  const operations: readonly Operation[] = [
    { program: "nft", input: renderNft(family, nft), ruleCount: countRules(nft) },
    { program: "iptables-restore", input: renderRestore(iptables), ruleCount: countRules(iptables) },
  ];
  return (isGrowing(nft) ? operations : operations.toReversed()).filter(({ input }) => input !== "");
}

function countRules(diff: Diff): number {
  return diff.filter(({ kind }) => kind === "add" || kind === "remove").length;
}

/**
 * Replaces the changes of each own chain that loses a rule by flushing and rewriting the chain.
 * @param desired the ruleset after the diff
 */
export function rewriteOwnChains(diff: Diff, desired: Desired): Diff {
  const losing = diff.filter(
    (change): change is IptablesChange =>
      change.kind === "remove" && !isNft(change) && isOwnedChain(change.chain),
  );
  const places = new Map(losing.map(({ table, chain }) => [`${table} ${chain}`, { table, chain }]));
  const kept = diff.filter(
    (change) => change.kind === "delete-chain" || !places.has(`${change.table} ${change.chain}`),
  );
  const rewritten = [...places.values()].flatMap(({ table, chain }): Diff => {
    const rules = desired.chains[table].get(chain) ?? [];
    const added = rules.map((rule, index): Change => ({
      kind: "add",
      table,
      chain,
      rule,
      position: index + 1,
      last: true,
    }));
    return [{ kind: "create-chain", table, chain }, ...added];
  });
  return [...rewritten, ...kept];
}

/** @returns removals of our rules from foreign chains, without those of rules that only move within their chain */
export function findObsoleteForeignChainRules(diff: Diff): readonly RuleRemoval[] {
  return withoutMoves(diff, findMoves(diff)).filter(
    (change): change is RuleRemoval =>
      change.kind === "remove" && !isNft(change) && change.place !== undefined,
  );
}

type RuleRemoval = IptablesChange & { readonly kind: "remove" };

export function withoutObsoleteForeignChainRules(diff: Diff): Diff {
  const obsolete: ReadonlySet<Change> = new Set(findObsoleteForeignChainRules(diff));
  return diff.filter((change) => !obsolete.has(change));
}

/**
 * Deletes obsolete rules in foreign chains by position, for rules that iptables cannot delete by their text. The last one
 * goes first, so that no position changes before it is used.
 * @param diff against a ruleset that was read just now
 */
export function removeByPlace(diff: Diff): Diff {
  const byPlace = findObsoleteForeignChainRules(diff).map((removal): Change => ({
    ...removal,
    rule: `${removal.place}`,
  }));
  return [...byPlace.toReversed(), ...withoutObsoleteForeignChainRules(diff)];
}

function isNft(change: Change): change is NftChange {
  return change.table === LIBVIRT_TABLE;
}

/** One transaction: `*table ... COMMIT` of iptables-restore. */
interface Section {
  readonly table: Table;
  readonly changes: readonly IptablesChange[];
}

/**
 * Orders a diff so that no port is open before it leads to its guest: guards and accepts come first, then redirects, and
 * in reverse when rules go.
 */
function planSections(diff: Diff): readonly Section[] {
  const of = (table: Table): readonly IptablesChange[] =>
    diff.filter((change): change is IptablesChange => change.table === table);
  const [raw, filter, nat] = [of("raw"), of("filter"), of("nat")];
  const sections: Section[] = [
    ...(isGrowing(raw) ? [{ table: "raw", changes: raw } as const] : []),
    ...(isGrowing(filter) ? [{ table: "filter", changes: filter } as const] : []),
    { table: "nat", changes: nat },
    ...(isGrowing(filter) ? [] : [{ table: "filter", changes: filter } as const]),
    ...(isGrowing(raw) ? [] : [{ table: "raw", changes: raw } as const]),
  ];
  return sections.filter((section) => section.changes.length > 0);
}

function isGrowing(changes: readonly Change[]): boolean {
  return changes.some((change) => change.kind === "add");
}

/** @returns input for `iptables-restore --noflush`; empty without changes in iptables' tables */
export function renderRestore(diff: Diff): string {
  return planSections(diff)
    .map(
      ({ table, changes }) =>
        `*${table}\n${changes.map((change) => `${renderChange(change)}\n`).join("")}COMMIT\n`,
    )
    .join("");
}

/** Prints a change as a command for people: `iptables -t nat -A KVMNATD-DNAT ...`. */
export function commandOf(family: Family, change: Change): string {
  if (isNft(change)) {
    // A reader needs the rule, not its handle.
    const ip = family === 4 ? "ip" : "ip6";
    return change.kind === "remove"
      ? `nft delete rule ${ip} ${change.table} ${change.chain} ${oneLine(change.rule)}`
      : `nft ${renderNftChange(family, change)}`;
  }
  const words = change.kind === "create-chain" ? `-N ${change.chain}` : renderChange(change);
  return `${family === 4 ? "iptables" : "ip6tables"} -t ${change.table} ${words}`;
}

function renderChange(change: IptablesChange): string {
  switch (change.kind) {
    case "create-chain":
      return `:${change.chain} - [0:0]`;
    case "delete-chain":
      return `-X ${change.chain}`;
    case "remove":
      return `-D ${change.chain} ${oneLine(change.rule)}`;
    case "add":
      return change.last
        ? `-A ${change.chain} ${change.rule}`
        : `-I ${change.chain} ${change.position} ${change.rule}`;
  }
}

/** Text after a line break in a foreign comment would be a command. iptables finds no such rule by its text anyway. */
function oneLine(rule: RuleText): string {
  return rule.replaceAll(/[\r\n]/g, " ");
}
