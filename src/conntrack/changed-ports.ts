import { distinctBy } from "../distinct-by.ts";
import type { Family, Ip, PortRange } from "../net/address.ts";
import type { PortTarget } from "../forwards/resolved-forward.ts";
import type { FamilyChange } from "../rules/diff.ts";
import { parseDnatRule } from "../rules/dnat-rule.ts";

/** Ports whose connections may lead elsewhere than the rules do, in one family. */
export interface SuspectPorts {
  readonly ports: readonly { readonly protocol: string; readonly range: PortRange }[];
  /** Where they led before. */
  readonly formerTargets: ReadonlySet<Ip>;
}

/** Where the published ports led before a pass, and where they lead after it. */
export interface TargetChange {
  readonly before: readonly PortTarget[];
  readonly after: readonly PortTarget[];
}

/**
 * The ports that a pass changed.
 * @param changes what it did to the rules; forwards that ended count without it, because another program may have
 *   removed their rules first
 */
export function findSuspects(
  changes: readonly FamilyChange[],
  targets: TargetChange,
  family: Family,
): SuspectPorts {
  const rules = changes.flatMap(({ family: own, change }) =>
    own === family && change.table === "nat" && "rule" in change ? [change] : [],
  );
  const dnatRules = rules.flatMap(({ kind, rule }) => {
    const parsed = parseDnatRule(rule);
    return parsed === undefined ? [] : [{ ...parsed, kind }];
  });
  const removed = dnatRules.filter(({ kind }) => kind === "remove");
  const changed: SuspectPorts = {
    ports: dnatRules.map(({ protocol, published }) => ({ protocol, range: published })),
    formerTargets: new Set(removed.map(({ destination }) => destination)),
  };
  // A jump or an exception decides for all ports.
  const isAll = dnatRules.length < rules.length;
  return mergeSuspects([
    changed,
    isAll ? suspectAllPorts(targets, family) : toSuspects(findEnded(targets, family)),
  ]);
}

/** Every port that is published now or was before, for a daemon that does not know what happened before its start. */
export function suspectAllPorts(targets: TargetChange, family: Family): SuspectPorts {
  const ports = targets.after.filter((each) => each.family === family);
  return mergeSuspects([{ ports, formerTargets: new Set() }, toSuspects(findEnded(targets, family))]);
}

/** @returns all of them, each port once: a check may fail for hours */
export function mergeSuspects(suspects: readonly SuspectPorts[]): SuspectPorts {
  const ports = suspects.flatMap((each) => each.ports).map(({ protocol, range }) => ({ protocol, range }));
  return {
    ports: distinctBy(ports, ({ protocol, range }) => `${protocol} ${range.first} ${range.last}`),
    formerTargets: new Set(suspects.flatMap(({ formerTargets }) => [...formerTargets])),
  };
}

function toSuspects(targets: readonly PortTarget[]): SuspectPorts {
  return { ports: targets, formerTargets: new Set(targets.map(({ address }) => address)) };
}

function findEnded({ before, after }: TargetChange, family: Family): readonly PortTarget[] {
  const remaining = new Set(after.map(targetKey));
  return before.filter((each) => each.family === family && !remaining.has(targetKey(each)));
}

function targetKey({ family, protocol, range, address }: PortTarget): string {
  return [family, protocol, range.first, range.last, address].join(" ");
}
