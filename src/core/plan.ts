import type { Family } from "./address.ts";
import type { Change, Diff } from "./diff.ts";
import type { Table } from "./ruleset.ts";

/** One atomic step: a `*table ... COMMIT` of iptables-restore. */
interface Section {
  readonly table: Table;
  readonly changes: readonly Change[];
}

/**
 * Orders a diff so that no port is open before it leads somewhere: what guards and what lets in comes first,
 * then what redirects; on the way back the other way round. Each section is all or nothing.
 */
function planSections(diff: Diff): readonly Section[] {
  const of = (table: Table): readonly Change[] => diff.filter((change) => change.table === table);
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

/** Input for `iptables-restore --noflush`; empty for an empty diff. */
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
  const words = change.kind === "create-chain" ? `-N ${change.chain}` : renderChange(change);
  return `${family === 4 ? "iptables" : "ip6tables"} -t ${change.table} ${words}`;
}

function renderChange(change: Change): string {
  switch (change.kind) {
    case "create-chain":
      return `:${change.chain} - [0:0]`;
    case "delete-chain":
      return `-X ${change.chain}`;
    case "remove":
      return `-D ${change.chain} ${change.rule}`;
    case "add":
      return change.last
        ? `-A ${change.chain} ${change.rule}`
        : `-I ${change.chain} ${change.position} ${change.rule}`;
  }
}
