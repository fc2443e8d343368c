import type { Family } from "../core/address.ts";
import { findMoves, heldMoves, withoutMoves } from "../core/contest.ts";
import type { Contests } from "../core/contest.ts";
import { diffRulesets } from "../core/diff.ts";
import type { Change, Diff } from "../core/diff.ts";
import { LIBVIRT_TABLE } from "../core/libvirt-table.ts";
import { planOperations, rewriteOwnChains } from "../core/plan.ts";
import { NOTHING_DESIRED, optionOf, ruleKey } from "../core/ruleset.ts";
import type { Actual, Desired, LibvirtTable } from "../core/ruleset.ts";
import { CommandError, KvmnatdError, VerifyError } from "../errors.ts";
import type { Host, Iptables } from "../ports.ts";

/** The ruleset of one family in one of iptables' variants; with libvirt's own table in the one that is in use. */
export interface Side {
  readonly family: Family;
  readonly tool: Iptables;
  readonly actual: Actual;
}

export const FAMILIES: readonly Family[] = [4, 6];

/** One family; without sides when its rules cannot be read. */
export interface SidesOrError {
  readonly family: Family;
  readonly sides: readonly Side[];
  readonly error?: KvmnatdError;
}

/** What a pass did to one side. */
export interface Outcome {
  /** What the kernel has taken. */
  readonly applied: Diff;
  /** What it should have taken and has not. */
  readonly remaining: Diff;
  readonly error?: KvmnatdError;
  /** Rules of ours that stood where they do not help: those put right, and those left there. */
  readonly moves: ReadonlySet<string>;
  readonly held: ReadonlySet<string>;
}

export const NOTHING_DONE: Outcome = { applied: [], remaining: [], moves: new Set(), held: new Set() };

/** Reads the rules of both families, or says what keeps it from it. A family stops neither the other nor the pass. */
export async function readAllSides(host: Host, tool: Iptables): Promise<readonly SidesOrError[]> {
  const libvirt = host.readLibvirtTables();
  const reading = FAMILIES.map(async (family): Promise<SidesOrError> => {
    try {
      return { family, sides: await readSides(host, tool, family, libvirt) };
    } catch (error) {
      if (error instanceof KvmnatdError) return { family, sides: [], error };
      throw error;
    }
  });
  return Promise.all(reading);
}

/** Of the variant in use, and of the other one where that has any rules. */
async function readSides(
  host: Host,
  tool: Iptables,
  family: Family,
  libvirtTables: Promise<ReadonlyMap<Family, LibvirtTable>>,
): Promise<readonly Side[]> {
  const [iptables, other, libvirt] = await Promise.all([
    host.readRules(tool, family),
    host.otherIptables(tool, family),
    libvirtTables,
  ]);
  const used: Side = { family, tool, actual: withLibvirt(iptables, libvirt.get(family)) };
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
export async function applyTo(
  host: Host,
  side: Side,
  desired: Desired,
  contests: Contests = new Map(),
): Promise<Outcome> {
  const whole = diffRulesets(desired, side.actual);
  const held = heldMoves(findMoves(whole), contests, host.now());
  const diff = withoutMoves(whole, held);
  if (diff.length === 0) return { ...NOTHING_DONE, held };
  await closeLoopback(host, diff);
  let failure = await carryOut(host, side, diff);
  let after = await readAgain(host, side);
  if (isRefusal(failure)) {
    // A rule that somebody put into a chain of ours may be one that iptables cannot delete by its own words. Other
    // tables may have been changed already: from what is there now.
    const rest = withoutMoves(diffRulesets(desired, after), held);
    failure = await carryOut(host, side, rewriteOwnChains(rest, desired));
    after = await readAgain(host, side);
  }
  const remaining = withoutMoves(diffRulesets(desired, after), held);
  const applied = subtract(diff, remaining);
  // Whoever fights may have moved it again by now: a repair that was made counts, one that failed does not.
  const moves = findMoves(failure === undefined ? diff : applied);
  if (remaining.length === 0) return { applied, remaining, moves, held };
  const [first] = remaining;
  const error =
    failure ??
    new VerifyError(
      `the kernel is not what was applied (${remaining.length} differences, first in ${first?.table} ${first?.chain}): ` +
        "another program changes the same rules; looking again",
    );
  return { applied, remaining, error, moves, held };
}

/** iptables-restore understood, and would not. */
function isRefusal(failure: KvmnatdError | undefined): boolean {
  return (
    failure instanceof CommandError &&
    failure.argv[0]?.endsWith("-restore") === true &&
    (failure.exitCode === 1 || failure.exitCode === 2)
  );
}

/** One program that fails does not keep the other from its work. */
async function carryOut(host: Host, { tool, family }: Side, diff: Diff): Promise<KvmnatdError | undefined> {
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

async function readAgain(host: Host, { tool, family, actual }: Side): Promise<Actual> {
  const [iptables, libvirt] = await Promise.all([
    host.readRules(tool, family),
    actual.libvirt === undefined ? undefined : host.readLibvirtTables(),
  ]);
  return withLibvirt(iptables, libvirt?.get(family));
}

function withLibvirt(actual: Actual, libvirt: LibvirtTable | undefined): Actual {
  return libvirt === undefined ? actual : { ...actual, libvirt };
}

/** Without the guard rule route_localnet lets guests at the host's 127.0.0.1: the sysctl goes first. */
async function closeLoopback(host: Host, diff: Diff): Promise<void> {
  const guards = diff.filter((change) => change.table === "raw" && change.kind === "remove");
  const kept = new Set(
    diff.filter((change) => change.table === "raw" && change.kind === "add").map(bridgeOf),
  );
  for (const bridge of new Set(guards.map(bridgeOf))) {
    if (bridge === undefined || kept.has(bridge)) continue;
    const path = routeLocalnet(bridge);
    if ((await host.readSysctl(path)) === "1") await host.writeSysctl(path, "0");
  }
}

function bridgeOf(change: Change): string | undefined {
  return "rule" in change ? optionOf(change.rule, "-i") : undefined;
}

export function routeLocalnet(bridge: string): string {
  return `net/ipv4/conf/${bridge}/route_localnet`;
}

/** Removes all that is ours from a side. */
export function clear(host: Host, side: Side): Promise<Outcome> {
  return applyTo(host, side, NOTHING_DESIRED);
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
