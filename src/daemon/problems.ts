import { isMoveOf } from "../rules/repair-limit.ts";
import type { Move } from "../rules/repair-limit.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createError, createWarning } from "../diagnostic.ts";
import { findRejectElsewhere } from "../libvirt/missing-jump.ts";
import { ownerOfChange } from "../log/audit-entries.ts";
import { GUARD_COMMENT, guestKey, encodeOwnerName } from "../rules/ownership.ts";
import { withoutObsoleteForeignChainRules } from "../rules/restore.ts";
import { printable } from "../sanitize.ts";
import { findShadowingRules } from "../rules/shadowing-rules.ts";
import type { ShadowingRules } from "../rules/shadowing-rules.ts";
import { commentOf } from "../rules/ruleset.ts";
import type { Jump } from "../rules/ruleset.ts";
import type { Host } from "../host-interface.ts";
import type { RulesetOutcome, BackendOutcome } from "./apply.ts";
import type { FamilyView, View } from "./observe.ts";

/** @returns problems of the config and of libvirt's files */
export function collectInputProblems(view: View): readonly Diagnostic[] {
  const config = view.configError;
  const warnings = view.snapshot.warnings.map((each): Diagnostic => ({ ...each, code: "config-warning" }));
  const found = [...warnings, ...view.unserved, ...view.leaseDiagnostics];
  if (config === undefined) return found;
  const message = `${config.message}; the config read before stays in force`;
  return [createError("config-invalid", message), ...found];
}

/**
 * @returns what the pass waits for: a network, or its bridge with an address. Whether libvirtd runs does not matter: it
 * exits when idle.
 */
export function findWaits(host: Host, view: View): readonly Diagnostic[] {
  const named = view.snapshot.portMap.networks ?? [];
  const down = view.networks.filter((network) => network.subnets.length === 0);
  const all = down.length === view.networks.length;
  const missing = down.filter((network) => all || named.includes(network.bridge));
  const waits = missing.map(
    (network) => `for network ${network.bridge}: its bridge is not up or has no address`,
  );
  if (view.networks.length === 0)
    waits.push(`for libvirt: no network has a lease file in ${host.dnsmasqDir}`);
  return waits.map((message) => createWarning("waiting", `waiting ${message}`));
}

/** Why a variant's rules are not what is desired. */
export function describeApplyErrors({ outcome: { errors } }: BackendOutcome): readonly Diagnostic[] {
  return errors.map((each) => ({ ...each.toDiagnostic(), message: printable(each.message, 1000) }));
}

/** @returns rejects in the variant of iptables that is not in use */
export function checkOtherVariant(
  { tool, networks }: View,
  { backends, desired }: FamilyView,
): readonly Diagnostic[] {
  const [, other] = backends;
  if (tool === undefined || desired.jumps.length === 0) return [];
  return findRejectElsewhere(
    tool.variant,
    other?.actual,
    networks.map(({ bridge }) => bridge),
  );
}

/**
 * Finds foreign rules that have published ports.
 * @param outcomes what the pass did to the rules that it had read; empty: nothing
 */
export function checkShadowingRules(
  { families, resolution, links }: View,
  outcomes: readonly BackendOutcome[],
): ShadowingRules {
  const found = families.map(({ family, backends: [used] }) => {
    const outcome = outcomes.find((each) => each.family === family)?.outcome;
    return findShadowingRules(outcome?.after ?? used?.actual, resolution.forwards, links.addresses, family);
  });
  return {
    problems: found.flatMap(({ problems }) => problems),
    taken: new Map(found.flatMap(({ taken }) => [...taken])),
  };
}

/**
 * Another program keeps a guard of 127.0.0.1 from its position.
 * @param outcomes those of the pass; they name the rule that precedes the guard
 */
export function describeOverriddenGuard(guard: Jump, outcomes: readonly BackendOutcome[]): Diagnostic {
  const moves = outcomes.flatMap(({ outcome }) => [...outcome.repositioned, ...outcome.backedOff]);
  const blocker = moves.find((move) => isMoveOf(move, guard))?.blocker;
  const rule = blocker === undefined ? "a rule" : `\`${printable(blocker, 300)}\``;
  const message =
    `another program puts ${rule} before kvmnatd's guard of 127.0.0.1 in raw PREROUTING again and again: ` +
    `reach.loopback is off for ${guard.mustPrecedeAcceptsFor}, else its guests would reach the host's own 127.0.0.1, until that ` +
    "program leaves the guard where it is; kvmnatd now tries once a minute (docs/rules.md)";
  return createError("loopback-guard-overridden", message);
}

/** @returns backed-off moves without which forwards do not pass: all but those of guards */
function findBlockingMoves({ backedOff }: RulesetOutcome): readonly Move[] {
  return backedOff.filter(({ rule }) => commentOf(rule) !== GUARD_COMMENT);
}

/** Another program keeps our jump from its position; the message names its rule. */
export function describeOverriddenJump({ family, outcome }: BackendOutcome): readonly Diagnostic[] {
  const [move] = findBlockingMoves(outcome);
  if (move === undefined) return [];
  const rule = printable(move.blocker ?? "a rule that rejects", 300);
  const message = `IPv${family}: another program puts \`${rule}\` before kvmnatd's jump again and again; ${HOW_JUMP_IS_RESTORED}`;
  return [createError("jump-overridden", message)];
}

const HOW_JUMP_IS_RESTORED =
  "forwards do not pass until that program leaves the jump where it is, or lets in what has conntrack state DNAT; " +
  "kvmnatd now tries once a minute (docs/rules.md)";

/** @returns why the rules of these guests are not in the kernel, by {@link guestKey}; a shared rule concerns all guests */
export function findFailingGuests(
  view: View,
  outcomes: readonly BackendOutcome[],
): ReadonlyMap<string, string> {
  const failing = new Map<string, string>();
  for (const { family, outcome } of outcomes) {
    if (outcome.errors.length === 0 && findBlockingMoves(outcome).length === 0) continue;
    // Only surplus rules of ours remain: every forward works.
    if (outcome.remaining.length > 0 && withoutObsoleteForeignChainRules(outcome.remaining).length === 0)
      continue;
    const overridden = "overridden: another program keeps a rule that rejects before kvmnatd's jump";
    const errors = outcome.errors.map((each) => printable(each.message, 200));
    const message = errors.length === 0 ? overridden : errors.join("; ");
    const owners = outcome.remaining.map((change) => ownerOfChange(change)?.name);
    const all = owners.length === 0 || owners.includes(undefined);
    for (const { forward, family: own } of view.resolution.forwards)
      if (own === family && (all || owners.includes(encodeOwnerName(forward.guest))))
        failing.set(guestKey(family, forward.guest), message);
  }
  return failing;
}
