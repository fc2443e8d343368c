import { describeDiagnostic } from "../diagnostic.ts";
import type { LogEntry } from "../log/audit-entries.ts";
import type { View } from "../daemon/observe.ts";
import { checkPortsInUse } from "../daemon/ports-in-use.ts";
import type { Host } from "../host-interface.ts";
import type { Context } from "./context.ts";
import type { Diagnostic } from "../diagnostic.ts";

/** What is done, or would be: each reason with its steps below. */
export function printEntries({ print, style }: Context, entries: readonly LogEntry[]): void {
  for (const { message, action } of entries) {
    if (action === undefined) print(style("bold", message));
    else print(`  ${action === "add" ? style("green", message) : style("red", message)}`);
  }
}

/** Problems, a line each. */
export function printProblems(context: Context, problems: readonly Diagnostic[]): void {
  for (const diagnostic of problems)
    context.complain(`kvmnatd: ${diagnostic.severity}: ${describeDiagnostic(diagnostic)}`);
}

/** Published ports on which the host itself listens. */
export async function warnPortsInUse(context: Context, host: Host, view: View): Promise<void> {
  for (const { message } of await checkPortsInUse(host, view))
    context.complain(`${context.style("yellow", "warning")}: ${message}`);
}
