import { diffRulesets } from "../rules/diff.ts";
import { buildAuditEntries, describeGuests, describeIncumbents } from "../log/audit-entries.ts";
import type { LogEntry } from "../log/audit-entries.ts";
import { NOTHING_DESIRED } from "../rules/ruleset.ts";
import { sysctlName } from "../rules/sysctl-name.ts";
import { NOTHING_OBSERVED, observe } from "../daemon/observe.ts";
import { findWaits, checkShadowingRules } from "../daemon/problems.ts";
import { findSysctls } from "../daemon/sysctls.ts";
import type { SysctlChange } from "../daemon/sysctls.ts";
import { EXIT } from "../errors.ts";
import type { ConfigFile, Host } from "../host-interface.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createHost } from "../host/create-host.ts";
import type { Context } from "./context.ts";
import { printJson } from "./context.ts";
import { printDiagnostics } from "./print-diagnostics.ts";
import { printProblems, printEntries, warnPortsInUse } from "./print.ts";
import type { FamilyChange } from "../rules/diff.ts";

/** `kvmnatd plan`: shows what `apply` would do. */
export async function plan(context: Context, host: Host = createHost(context.paths)): Promise<number> {
  let untrusted = undefined as Diagnostic<string> | undefined;
  // A plan changes nothing: it may use a config that `run` and `apply` reject because of its owner or mode.
  const readConfig = async (): Promise<ConfigFile> => {
    const file = await host.readConfig();
    untrusted = file.untrusted;
    return { ...file, untrusted: undefined };
  };
  const view = await observe({ ...host, readConfig }, NOTHING_OBSERVED, false);
  for (const family of view.families) if (family.error !== undefined) throw family.error;
  const changes = view.families.flatMap(({ family, desired, backends }) =>
    backends.flatMap((backend, index) =>
      diffRulesets(index === 0 ? desired : NOTHING_DESIRED, backend.actual).map((change): FamilyChange => ({
        family,
        change,
      })),
    ),
  );
  const before = describeIncumbents(view.incumbents);
  const entries = [
    ...buildAuditEntries(
      { before, now: describeGuests(view.resolution.forwards), changes },
      { number: 0, trigger: "plan" },
    ),
    ...(await findSysctls(host, view)).map(toEntry),
  ];
  const steps = entries.filter(({ action }) => action !== undefined);
  await printDiagnostics(context, untrusted === undefined ? [] : [untrusted], view.snapshot.configText);
  await printDiagnostics(context, [...view.snapshot.warnings, ...view.unserved], view.snapshot.configText);
  printProblems(context, [
    ...view.leaseDiagnostics,
    ...findWaits(host, view),
    ...checkShadowingRules(view, []).problems,
  ]);
  await warnPortsInUse(context, host, view);
  if (context.json) printJson(context, { changes: steps.map(toStep) });
  else printEntries(context, entries);
  if (steps.length === 0 && !context.json) context.print("no changes: the kernel is as it should be");
  return steps.length === 0 ? EXIT.ok : EXIT.changes;
}

function toEntry(change: SysctlChange): LogEntry {
  const rule = `sysctl -w ${sysctlName(change.path)}=${change.value}`;
  const action = change.value === "0" ? "remove" : "add";
  const sign = action === "add" ? "+" : "-";
  return { level: "info", event: "sysctl-set", message: `${sign} ${rule}  # ${change.why}`, rule, action };
}

function toStep({ action, rule, guest }: LogEntry): object {
  return { action, rule, guest: guest ?? null };
}
