import type { Family } from "../net/address.ts";
import { findBackedOffMoves, findMoves, NO_REPAIRS, withoutMoves } from "../rules/repair-limit.ts";
import type { Move, RepairHistory } from "../rules/repair-limit.ts";
import { diffRulesets } from "../rules/diff.ts";
import type { Change, Diff, FamilyChange } from "../rules/diff.ts";
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
import type { Actual, Desired, Variant } from "../rules/ruleset.ts";
import { CommandError, KvmnatdError, VerifyError } from "../errors.ts";
import type { Host } from "../host-interface.ts";
import { rereadRules } from "./read-rulesets.ts";
import type { BackendRuleset, FamilyRulesets } from "./read-rulesets.ts";

/*
 * Goals, in this order:
 *
 *   1. Foreign rules stay as they are.
 *   2. No port is open before it leads to its guest: each table changes in one transaction, and the tables in a safe
 *      order (rules/restore.ts).
 *   3. Only the difference is written, so that unchanged forwards keep their connections and counters.
 *   4. The result is read back from the kernel and compared, never assumed.
 *   5. A rejected restore is tried again from what the kernel has by then: first the same way, because another program
 *      may have written at the same time; then with our chains rewritten and our rules in foreign chains deleted by
 *      position, because iptables cannot delete every rule by its text; then without those that cannot be deleted.
 *   6. A program that fails does not stop the other one, and every failure is reported.
 *   7. A position that another program keeps taking is left to it for a while (rules/repair-limit.ts).
 */

/** What a pass did to one variant's rules of one family. */
export interface RulesetOutcome {
  /** Changes that the kernel has taken. */
  readonly applied: Diff;
  /** Changes that the kernel should have taken and has not. */
  readonly remaining: Diff;
  /** Why changes remain. */
  readonly errors: readonly KvmnatdError[];
  /** The rules afterwards; undefined when there was nothing to do. */
  readonly after: Actual | undefined;
  /** What was written and could not be read back. */
  readonly unverified: UnverifiedChanges | undefined;
  /** Rules that were moved back to their position. */
  readonly repositioned: readonly Move[];
  /** Rules that were not moved because of the repair limit. */
  readonly backedOff: readonly Move[];
}

/** The same, with its family. */
export interface BackendOutcome {
  readonly family: Family;
  readonly outcome: RulesetOutcome;
}

/** Changes that kvmnatd wrote without being able to read the result: the next reading shows which the kernel has taken. */
export interface UnverifiedChanges {
  readonly family: Family;
  readonly variant: Variant;
  readonly diff: Diff;
  /** The rules that the diff leads to. */
  readonly desired: Desired;
}

const NOTHING_DONE: RulesetOutcome = {
  applied: [],
  remaining: [],
  errors: [],
  after: undefined,
  unverified: undefined,
  repositioned: [],
  backedOff: [],
};

/** @returns the outcome for rules that could not be read or reached */
export function notApplied(error: KvmnatdError): RulesetOutcome {
  return { ...NOTHING_DONE, errors: [error] };
}

/**
 * Makes the rules of one variant what is desired.
 * @param history repairs of the last minute
 */
export async function applyRuleset(
  host: Host,
  backend: BackendRuleset,
  desired: Desired,
  history: RepairHistory = NO_REPAIRS,
): Promise<RulesetOutcome> {
  const whole = diffRulesets(desired, backend.actual);
  const backedOff = findBackedOffMoves(findMoves(whole), history, host.now());
  const diff = withoutMoves(whole, backedOff);
  if (diff.length === 0) return { ...NOTHING_DONE, backedOff };
  const missing = (actual: Actual): Diff => withoutMoves(diffRulesets(desired, actual), backedOff);
  const { failures, after } = await runWithRetries(host, backend, diff, (actual) => ({
    desired,
    missing: missing(actual),
  }));
  if (after instanceof KvmnatdError) {
    const unverified = { family: backend.family, variant: backend.tool.variant, diff, desired };
    return { ...NOTHING_DONE, errors: [...failures, after], unverified, backedOff };
  }
  const remaining = missing(after);
  const applied = subtract(diff, remaining);
  // The other program may have moved the rule again by now: a repair that was made counts, a failed one does not.
  const repositioned = findMoves(failures.length === 0 ? diff : applied);
  const errors = toApplyErrors(backend.family, failures, remaining);
  return { applied, remaining, errors, after, unverified: undefined, repositioned, backedOff };
}

/** What is still to be done after an attempt, and what it leads to. */
interface Rest {
  readonly desired: Desired;
  readonly missing: Diff;
}

/** Ways to write the rest after a rejected restore, see goal 5. */
const RETRIES: readonly ((rest: Rest) => Diff)[] = [
  ({ missing }) => missing,
  ({ missing, desired }) => removeByPlace(rewriteOwnChains(missing, desired)),
];

interface Attempt {
  readonly failures: readonly KvmnatdError[];
  /** What the kernel has afterwards, or why that cannot be read. */
  readonly after: Actual | KvmnatdError;
}

/** @param restAfter what is still to be done, given what the kernel has */
async function runWithRetries(
  host: Host,
  backend: BackendRuleset,
  diff: Diff,
  restAfter: (actual: Actual) => Rest,
): Promise<Attempt> {
  let attempt = await runAndReread(host, backend, diff);
  for (const retry of RETRIES) {
    if (attempt.after instanceof KvmnatdError || !attempt.failures.some(isRestoreRejected)) return attempt;
    attempt = await runAndReread(host, backend, retry(restAfter(attempt.after)));
  }
  const { failures, after } = attempt;
  if (after instanceof KvmnatdError || !failures.some(isRestoreRejected)) return attempt;
  const { missing, desired } = restAfter(after);
  if (findObsoleteForeignChainRules(missing).length === 0) return attempt;
  const rest = rewriteOwnChains(withoutObsoleteForeignChainRules(missing), desired);
  // What is left out stays rejected, whatever becomes of the rest.
  return { ...(await runAndReread(host, backend, rest)), failures };
}

async function runAndReread(host: Host, backend: BackendRuleset, diff: Diff): Promise<Attempt> {
  const failures = await runOperations(host, backend, diff);
  try {
    return { failures, after: await rereadRules(host, backend) };
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    return { failures, after: error };
  }
}

/** @returns why changes remain; nothing when none does */
function toApplyErrors(
  family: Family,
  failures: readonly KvmnatdError[],
  remaining: Diff,
): readonly KvmnatdError[] {
  const [first] = remaining;
  if (first === undefined) return [];
  const count = remaining.length === 1 ? "1 difference" : `${remaining.length} differences`;
  const left = `${count}, first \`${commandOf(family, first)}\``;
  if (failures.length === 0)
    return [
      new VerifyError(
        `the kernel is not what was applied (${left}): another program changes the same rules; looking again`,
      ),
    ];
  return failures.map((failure) =>
    isRestoreRejected(failure)
      ? new KvmnatdError(failure.code, `${failure.message}; left undone: ${left}`, { cause: failure })
      : failure,
  );
}

/** Whether iptables-restore read its input and rejected it. */
function isRestoreRejected(failure: KvmnatdError): boolean {
  return (
    failure instanceof CommandError &&
    failure.argv[0]?.endsWith("-restore") === true &&
    (failure.exitCode === 1 || failure.exitCode === 2)
  );
}

/** Runs each program. @returns the failures of all of them */
async function runOperations(
  host: Host,
  { tool, family }: BackendRuleset,
  diff: Diff,
): Promise<readonly KvmnatdError[]> {
  const failures: KvmnatdError[] = [];
  for (const operation of planOperations(family, diff)) {
    try {
      await (operation.program === "nft"
        ? host.runNft(operation)
        : host.restoreRules(tool, family, operation));
    } catch (error) {
      if (!(error instanceof KvmnatdError)) throw error;
      failures.push(error);
    }
  }
  return failures;
}

/** Removes every rule, chain and jump that kvmnatd owns from one variant. */
export function removeOwnedRules(host: Host, backend: BackendRuleset): Promise<RulesetOutcome> {
  return applyRuleset(host, backend, NOTHING_DESIRED);
}

/**
 * Verifies changes that could not be read back when they were written.
 * @param rulesets the rules as they were read since; empty for a family that cannot be read
 * @returns the changes that the kernel has taken, and those that still cannot be verified
 */
export function verifyEarlier(
  earlier: readonly UnverifiedChanges[],
  rulesets: readonly FamilyRulesets[],
): { readonly taken: readonly FamilyChange[]; readonly unverified: readonly UnverifiedChanges[] } {
  const backends = rulesets.flatMap((each) => each.backends);
  const taken = earlier.flatMap(({ family, variant, diff, desired }) => {
    const backend = backends.find((each) => each.family === family && each.tool.variant === variant);
    const applied = backend === undefined ? [] : subtract(diff, diffRulesets(desired, backend.actual));
    return applied.map((change): FamilyChange => ({ family, change }));
  });
  return {
    taken,
    unverified: earlier.filter(({ family }) => backends.every((each) => each.family !== family)),
  };
}

/** @returns the changes of `diff` that are not in `remaining` */
function subtract(diff: Diff, remaining: Diff): Diff {
  const left = new Map<string, number>();
  for (const change of remaining) left.set(changeKey(change), (left.get(changeKey(change)) ?? 0) + 1);
  return diff.filter((change) => {
    const count = left.get(changeKey(change)) ?? 0;
    if (count > 0) left.set(changeKey(change), count - 1);
    return count === 0;
  });
}

function changeKey(change: Change): string {
  const rule = "rule" in change ? change.rule : "";
  // ruleKey parses iptables' text only.
  const key = change.table === LIBVIRT_TABLE ? rule : ruleKey(rule);
  return [change.kind, change.table, change.chain, key].join(" ");
}
