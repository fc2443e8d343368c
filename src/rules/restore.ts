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
 * The same diff, with the chains of ours that lose a rule written anew instead of rule by rule.
 * @param desired what the diff leads to
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

/** Rules of ours that go from chains of others for good; one that moves within its chain is none. */
export function findObsoleteForeignChainRules(diff: Diff): readonly Removal[] {
  return withoutMoves(diff, findMoves(diff)).filter(
    (change): change is Removal => change.kind === "remove" && !isNft(change) && change.place !== undefined,
  );
}

type Removal = IptablesChange & { readonly kind: "remove" };

export function withoutObsoleteForeignChainRules(diff: Diff): Diff {
  const strays: ReadonlySet<Change> = new Set(findObsoleteForeignChainRules(diff));
  return diff.filter((change) => !strays.has(change));
}

/**
 * The same diff, with strays named by their places, for those that iptables cannot delete by their own words. From the
 * end: so that no place moves before it is used.
 * @param diff from what was read just now
 */
export function removeByPlace(diff: Diff): Diff {
  const byPlace = findObsoleteForeignChainRules(diff).map((stray): Change => ({
    ...stray,
    rule: `${stray.place}`,
  }));
  return [...byPlace.toReversed(), ...withoutObsoleteForeignChainRules(diff)];
}

function isNft(change: Change): change is NftChange {
  return change.table === LIBVIRT_TABLE;
}

/** One atomic step: a `*table ... COMMIT` of iptables-restore. */
interface Section {
  readonly table: Table;
  readonly changes: readonly IptablesChange[];
}

/**
 * Orders a diff so that no port is open before it leads somewhere: what guards and what lets in comes first,
 * then what redirects; on the way back the other way round. Each section is all or nothing.
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

/** Input for `iptables-restore --noflush`; empty where it asks for nothing in iptables' tables. */
export function renderRestore(diff: Diff): string {
  return planSections(diff)
    .map(
      ({ table, changes }) =>
        `*${table}\n${changes.map((change) => `${renderChange(change)}\n`).join("")}COMMIT\n`,
    )
    .join("");
}

/** A change in the words of a command line, for people: `iptables -t nat -A KVMNATD-DNAT ...`. */
export function commandOf(family: Family, change: Change): string {
  if (isNft(change)) {
    // A handle tells a reader nothing: the rule does.
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

/** A foreign comment may hold line breaks, and what comes after one would be a command of its own. No such rule is found by its words. */
function oneLine(rule: RuleText): string {
  return rule.replaceAll(/[\r\n]/g, " ");
}
