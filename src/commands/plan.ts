import type { LogEntry } from "../core/narrate.ts";
import { narrate, tellGuests, tellHolders } from "../core/narrate.ts";
import type { FamilyChange } from "../core/narrate.ts";
import { diffRulesets } from "../core/diff.ts";
import { sysctlName } from "../core/sysctl-name.ts";
import type { Problem } from "../core/status.ts";
import { NOTHING_DESIRED } from "../core/ruleset.ts";
import { finishCleaning } from "../daemon/flows.ts";
import { observe } from "../daemon/observe.ts";
import type { View } from "../daemon/observe.ts";
import { findOccupiedPorts } from "../daemon/occupied.ts";
import { findWaits, rulesBefore } from "../daemon/problems.ts";
import { reconcile } from "../daemon/reconcile.ts";
import { findSysctls } from "../daemon/sysctls.ts";
import type { SysctlChange } from "../daemon/sysctls.ts";
import { EXIT } from "../errors.ts";
import type { Host } from "../ports.ts";
import { readLiveStatus } from "../host/status-file.ts";
import { createHost } from "../wire.ts";
import { printIssues, refuseUnserved } from "./check.ts";
import type { Context } from "./context.ts";
import { printJson } from "./context.ts";
import { record } from "./record.ts";

/** `kvmnatd plan`: what `apply` would do. */
export async function plan(context: Context): Promise<number> {
  const host = createHost(context.paths);
  const { untrusted } = await host.readConfig();
  const view = await observe(trusting(host), {}, false);
  refuseUnserved(view, context.paths.config);
  for (const family of view.families) if (family.error !== undefined) throw family.error;
  const changes = view.families.flatMap(({ family, desired, sides }) =>
    sides.flatMap((side, index) =>
      diffRulesets(index === 0 ? desired : NOTHING_DESIRED, side.actual).map((change): FamilyChange => ({
        family,
        change,
      })),
    ),
  );
  const before = tellHolders(view.incumbents);
  const entries = [
    ...narrate(before, tellGuests(view.resolution.forwards), changes, "plan", 0),
    ...(await findSysctls(host, view)).map(toEntry),
  ];
  const steps = entries.filter(({ action }) => action !== undefined);
  // `run` and `apply` refuse it.
  printIssues(context, untrusted === undefined ? [] : [untrusted], view.snapshot.configText);
  printIssues(context, view.snapshot.warnings, view.snapshot.configText);
  for (const { severity, message, where } of view.leaseIssues)
    context.complain(`kvmnatd: ${severity}: ${where.file}: ${message}`);
  complainOf(context, [...findWaits(host, view), ...rulesBefore(view)]);
  await warnOccupied(context, host, view);
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

/** `kvmnatd apply`: one pass. */
export async function apply(context: Context): Promise<number> {
  const host = createHost(context.paths);
  const checked = await observe(host, {}, false);
  refuseUnserved(checked, context.paths.config);
  const daemon = await readLiveStatus(context.paths.runtimeDir);
  if (daemon !== undefined)
    context.complain(
      `${context.colors.yellow("warning")}: kvmnatd runs as process ${daemon.pid} and keeps the rules itself, also what lingers: ` +
        "`kvmnatd reload` makes it look at its config at once",
    );
  const result = await reconcile(host, {}, 1, "apply", false);
  await tell(context, result.entries);
  if (!result.failed && result.entries.every(({ event }) => event !== "rule" && event !== "sysctl-set"))
    context.print("no changes: the kernel is as it should be");
  complainOf(context, result.problems);
  await warnOccupied(context, host, result.view);
  const rest = await finishCleaning(host, result.view, result.memory.flows ?? { leads: [] });
  await tell(context, rest.entries);
  const before = new Set(result.problems.map(({ message }) => message));
  complainOf(
    context,
    rest.problems.filter(({ message }) => !before.has(message)),
  );
  return result.failed ? EXIT.failed : EXIT.ok;
}

/** What was done, here and in the journal. */
async function tell(context: Context, entries: readonly LogEntry[]): Promise<void> {
  printEntries(context, entries);
  if (entries.length === 0) return;
  await record(
    context,
    entries.map(({ message }) => message),
  );
}

function complainOf(context: Context, problems: readonly Problem[]): void {
  for (const { severity, message } of problems) context.complain(`kvmnatd: ${severity}: ${message}`);
}

/** A plan changes nothing: whoever may have written the config, it may be looked at. */
function trusting(host: Host): Host {
  return { ...host, readConfig: async () => ({ ...(await host.readConfig()), untrusted: undefined }) };
}

async function warnOccupied(context: Context, host: Host, view: View): Promise<void> {
  for (const { message } of await findOccupiedPorts(host, view))
    context.complain(`${context.colors.yellow("warning")}: ${message}`);
}

function printEntries({ print, colors }: Context, entries: readonly LogEntry[]): void {
  for (const { message, action } of entries) {
    if (action === undefined) print(colors.bold(message));
    else print(`  ${action === "add" ? colors.green(message) : colors.red(message)}`);
  }
}

function toStep({ action, rule, guest }: LogEntry): object {
  return { action, rule, guest: guest ?? null };
}
