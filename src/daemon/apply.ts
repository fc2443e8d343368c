import type { Family } from "../net/address.ts";
import { findMoves, deferredMoves, withoutMoves } from "../rules/repair-limit.ts";
import type { RepairHistory } from "../rules/repair-limit.ts";
import { diffRulesets } from "../rules/diff.ts";
import type { Change, Diff } from "../rules/diff.ts";
import { LIBVIRT_TABLE } from "../rules/libvirt-table.ts";
import {
  commandOf,
  findObsoleteForeignChainRules,
  planOperations,
  removeByPlace,
  rewriteOwnChains,
  withoutObsoleteForeignChainRules,
} from "../rules/restore.ts";
import { NOTHING_DESIRED, ruleKey } from "../rules/ruleset.ts";
import type { Actual, Desired, LibvirtTable, Variant } from "../rules/ruleset.ts";
import { CommandError, KvmnatdError, VerifyError } from "../errors.ts";
import type { Host, Iptables } from "../host-interface.ts";

/** The ruleset of one family in one of iptables' variants; with libvirt's own table in the one that is in use. */
export interface BackendRuleset {
  readonly family: Family;
  readonly tool: Iptables;
  readonly actual: Actual;
}

export const FAMILIES: readonly Family[] = [4, 6];

/** One family; without sides when its rules cannot be read. */
export interface FamilyRulesets {
  readonly family: Family;
  readonly sides: readonly BackendRuleset[];
  readonly error?: KvmnatdError;
}

/** What a pass did to one side. */
export interface Outcome {
  /** What the kernel has taken. */
  readonly applied: Diff;
  /** What it should have taken and has not. */
  readonly remaining: Diff;
  readonly error?: KvmnatdError;
  /** What is there now; absent where nothing was to be done. */
  readonly after?: Actual;
  /** Rules of ours that stood where they do not help: those put right, and those left there. */
  readonly moves: ReadonlySet<string>;
  readonly held: ReadonlySet<string>;
}

export const NOTHING_DONE: Outcome = { applied: [], remaining: [], moves: new Set(), held: new Set() };

/**
 * Reads the rules of both families, or says what keeps it from it. A family stops neither the other nor the pass.
 * @param known variants of iptables that kvmnatd has used before
 */
export async function readRulesets(
  host: Host,
  tool: Iptables,
  known: ReadonlySet<Variant>,
): Promise<readonly FamilyRulesets[]> {
  const libvirt = host.readLibvirtTables();
  return Promise.all(FAMILIES.map((family) => tryToRead(host, tool, family, known, libvirt)));
}

/**
 * Reads iptables' rules of these families again.
 * @param before what was read last; nothing else has changed since
 */
export async function rereadRulesets(
  host: Host,
  before: readonly FamilyRulesets[],
  families: ReadonlySet<Family>,
  known: ReadonlySet<Variant>,
): Promise<readonly FamilyRulesets[]> {
  const reading = before.map(async (each) => {
    const { family, sides } = each;
    const [used] = sides;
    if (used === undefined || !families.has(family)) return each;
    const { libvirt } = used.actual;
    const tables = new Map(libvirt === undefined ? [] : [[family, libvirt]]);
    return tryToRead(host, used.tool, family, known, Promise.resolve(tables));
  });
  return Promise.all(reading);
}

async function tryToRead(
  host: Host,
  tool: Iptables,
  family: Family,
  known: ReadonlySet<Variant>,
  libvirtTables: Promise<ReadonlyMap<Family, LibvirtTable>>,
): Promise<FamilyRulesets> {
  try {
    return { family, sides: await readSides(host, tool, family, known, libvirtTables) };
  } catch (error) {
    if (error instanceof KvmnatdError) return { family, sides: [], error };
    throw error;
  }
}

/** Of the variant in use, and of the other one where that has any rules. */
async function readSides(
  host: Host,
  tool: Iptables,
  family: Family,
  known: ReadonlySet<Variant>,
  libvirtTables: Promise<ReadonlyMap<Family, LibvirtTable>>,
): Promise<readonly BackendRuleset[]> {
  const [iptables, other, libvirt] = await Promise.all([
    host.readRules(tool, family),
    host.otherIptables(tool, family, known),
    libvirtTables,
  ]);
  const used: BackendRuleset = { family, tool, actual: withLibvirt(iptables, libvirt.get(family)) };
  if (other === undefined) return [used];
  try {
    return [used, { family, tool: other, actual: await host.readRules(other, family) }];
  } catch (error) {
    // What is not in use and cannot be read is not in the way.
    if (error instanceof KvmnatdError) return [used];
    throw error;
  }
}

/**
 * Brings one side to what is desired: one restore, then the kernel is read again and compared.
 * @param contests what others keep moving is left alone for a while
 */
export async function applyRuleset(
  host: Host,
  side: BackendRuleset,
  desired: Desired,
  contests: RepairHistory = new Map(),
): Promise<Outcome> {
  const whole = diffRulesets(desired, side.actual);
  const held = deferredMoves(findMoves(whole), contests, host.now());
  const diff = withoutMoves(whole, held);
  if (diff.length === 0) return { ...NOTHING_DONE, held };
  let failure = await runOperations(host, side, diff);
  let after = await rereadRules(host, side);
  const missing = (): Diff => withoutMoves(diffRulesets(desired, after), held);
  if (isRestoreRejected(failure)) {
    // Most likely another program was at work: once more, from what is there now. A place could be another's by then.
    failure = await runOperations(host, side, missing());
    after = await rereadRules(host, side);
  }
  if (isRestoreRejected(failure)) {
    // A rule may be one that iptables cannot delete by its own words. Other tables may have been changed already: from
    // what is there now.
    failure = await runOperations(host, side, removeByPlace(rewriteOwnChains(missing(), desired)));
    after = await rereadRules(host, side);
  }
  if (isRestoreRejected(failure) && findObsoleteForeignChainRules(missing()).length > 0) {
    // What cannot be removed at all keeps nothing else from its place.
    await runOperations(host, side, rewriteOwnChains(withoutObsoleteForeignChainRules(missing()), desired));
    after = await rereadRules(host, side);
  }
  const remaining = missing();
  const applied = subtract(diff, remaining);
  // Whoever fights may have moved it again by now: a repair that was made counts, one that failed does not.
  const moves = findMoves(failure === undefined ? diff : applied);
  const [first] = remaining;
  const done = { applied, remaining, after, moves, held };
  return first === undefined
    ? done
    : { ...done, error: toApplyError(side.family, failure, remaining.length, first) };
}

/** @param first of what is not as it should be */
function toApplyError(
  family: Family,
  failure: KvmnatdError | undefined,
  count: number,
  first: Change,
): KvmnatdError {
  const left = `${count} ${count === 1 ? "difference" : "differences"}, first \`${commandOf(family, first)}\``;
  if (failure === undefined)
    return new VerifyError(
      `the kernel is not what was applied (${left}): another program changes the same rules; looking again`,
    );
  if (!isRestoreRejected(failure)) return failure;
  return new KvmnatdError(failure.code, `${failure.message}; left undone: ${left}`, { cause: failure });
}

/** iptables-restore understood, and would not. */
function isRestoreRejected(failure: KvmnatdError | undefined): boolean {
  return (
    failure instanceof CommandError &&
    failure.argv[0]?.endsWith("-restore") === true &&
    (failure.exitCode === 1 || failure.exitCode === 2)
  );
}

/** One program that fails does not keep the other from its work. */
async function runOperations(
  host: Host,
  { tool, family }: BackendRuleset,
  diff: Diff,
): Promise<KvmnatdError | undefined> {
  let failure: KvmnatdError | undefined;
  for (const { program, input } of planOperations(family, diff)) {
    try {
      await (program === "nft" ? host.runNft(input) : host.restoreRules(tool, family, input));
    } catch (error) {
      if (!(error instanceof KvmnatdError)) throw error;
      failure ??= error;
    }
  }
  return failure;
}

async function rereadRules(host: Host, { tool, family, actual }: BackendRuleset): Promise<Actual> {
  const [iptables, libvirt] = await Promise.all([
    host.readRules(tool, family),
    actual.libvirt === undefined ? undefined : host.readLibvirtTables(),
  ]);
  return withLibvirt(iptables, libvirt?.get(family));
}

function withLibvirt(actual: Actual, libvirt: LibvirtTable | undefined): Actual {
  return libvirt === undefined ? actual : { ...actual, libvirt };
}

/** Removes all that is ours from a side. */
export function removeOwnedRules(host: Host, side: BackendRuleset): Promise<Outcome> {
  return applyRuleset(host, side, NOTHING_DESIRED);
}

/** Those of `diff` that are not in `remaining`. */
function subtract(diff: Diff, remaining: Diff): Diff {
  const left = new Map<string, number>();
  for (const change of remaining) left.set(keyOf(change), (left.get(keyOf(change)) ?? 0) + 1);
  return diff.filter((change) => {
    const count = left.get(keyOf(change)) ?? 0;
    if (count > 0) left.set(keyOf(change), count - 1);
    return count === 0;
  });
}

function keyOf(change: Change): string {
  const rule = "rule" in change ? change.rule : "";
  // ruleKey knows iptables' words only.
  const key = change.table === LIBVIRT_TABLE ? rule : ruleKey(rule);
  return [change.kind, change.table, change.chain, key].join(" ");
}
