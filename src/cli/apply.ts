import type { LogEntry } from "../log/audit-entries.ts";
import { finishCleaning } from "../daemon/remove-stale-flows.ts";
import { FIRST_PASS_STATE, reconcile } from "../daemon/pass.ts";
import { EXIT } from "../errors.ts";
import { readLiveStatus } from "../host/files/status-file.ts";
import { createHost } from "../host/create-host.ts";
import type { Context } from "./context.ts";
import { logToJournal } from "./record.ts";
import { printProblems, printEntries, warnPortsInUse } from "./print.ts";

/** `kvmnatd apply`: one pass. */
export async function apply(context: Context): Promise<number> {
  const host = createHost(context.paths);
  const daemon = await readLiveStatus(context.paths.runtimeDir);
  if (daemon !== undefined)
    context.complain(
      `${context.style("yellow", "warning")}: kvmnatd runs as process ${daemon.pid} and keeps the rules itself, also what lingers: ` +
        "`kvmnatd reload` makes it look at its config at once",
    );
  const result = await reconcile(host, FIRST_PASS_STATE, { number: 1, trigger: "apply", lingers: false });
  await reportChanges(context, result.entries);
  if (!result.failed && result.entries.every(({ event }) => event !== "rule" && event !== "sysctl-set"))
    context.print("no changes: the kernel is as it should be");
  printProblems(context, result.problems);
  await warnPortsInUse(context, host, result.view);
  const rest = await finishCleaning(host, result.view, result.memory.flows);
  await reportChanges(context, rest.entries);
  const before = new Set(result.problems.map(({ message }) => message));
  printProblems(
    context,
    rest.problems.filter(({ message }) => !before.has(message)),
  );
  return result.failed ? EXIT.failed : EXIT.ok;
}

/** Prints the changes and logs them to the journal. */
async function reportChanges(context: Context, entries: readonly LogEntry[]): Promise<void> {
  printEntries(context, entries);
  if (entries.length === 0) return;
  await logToJournal(
    context,
    entries.map(({ message }) => message),
  );
}
