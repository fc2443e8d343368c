import type { LogEntry } from "../log/audit-entries.ts";
import { commandOf } from "../rules/restore.ts";
import { NOTHING_DESIRED } from "../rules/ruleset.ts";
import type { Variant } from "../rules/ruleset.ts";
import type { FamilyChange } from "../rules/diff.ts";
import { removeOwnedRules, verifyEarlier } from "../daemon/apply.ts";
import type { UnverifiedChanges } from "../daemon/apply.ts";
import { readKernel } from "../daemon/read-rulesets.ts";
import { findClosings, writeSysctls } from "../daemon/sysctls.ts";
import type { SysctlsWritten } from "../daemon/sysctls.ts";
import { CommandError, EXIT } from "../errors.ts";
import type { KvmnatdError } from "../errors.ts";
import { readLiveStatus } from "../host/files/status-file.ts";
import type { Host } from "../host-interface.ts";
import { createHost } from "../host/create-host.ts";
import type { Context } from "./context.ts";
import { logToJournal } from "./record.ts";

interface TeardownResult {
  /** What was removed. */
  readonly count: number;
  /** Why rules of kvmnatd may be left. */
  readonly failures: readonly KvmnatdError[];
  /** Removals whose result could not be read. */
  readonly unverified: readonly UnverifiedChanges[];
}

/**
 * Removes every rule, chain and jump of ours, of both families and both of iptables' variants.
 * Needs no config, so that a broken one does not prevent it. If a part cannot be read or removed, kvmnatd still removes
 * the rest.
 * @param known variants that kvmnatd has used: only root can read which others exist
 * @param onRemoved called for each removal
 * @param unverified those of the attempt before
 */
export async function removeOwned(
  host: Host,
  known: ReadonlySet<Variant>,
  onRemoved: (entry: LogEntry) => void,
  unverified: TeardownResult["unverified"] = [],
): Promise<TeardownResult> {
  const closed = await closeBridges(host);
  const failures: KvmnatdError[] = closed.error === undefined ? [] : [closed.error];
  const { families } = await readKernel(host, "auto", known);
  const earlier = verifyEarlier(unverified, families);
  const left = [...earlier.unverified];
  const removed = [...closed.entries, ...earlier.taken.map(toEntry)];
  for (const entry of removed) onRemoved(entry);
  let count = removed.length;
  for (const { family, backends, error: unread } of families) {
    // A host without IPv6 has no ip6tables, and nothing of ours there.
    const isAbsent = family === 6 && unread instanceof CommandError && unread.isMissing;
    if (unread !== undefined && !isAbsent) failures.push(unread);
    // The guard of 127.0.0.1 must stay until its bridge is closed.
    if (family === 4 && closed.error !== undefined) continue;
    for (const backend of backends) {
      const outcome = await removeOwnedRules(host, backend);
      for (const change of outcome.applied) onRemoved(toEntry({ family, change }));
      count += outcome.applied.length;
      failures.push(...outcome.errors);
      if (outcome.unverified !== undefined) left.push(outcome.unverified);
    }
  }
  // Without the variant in use, both families fail for the same reason.
  return { count, failures: [...new Set(failures)], unverified: left };
}

function toEntry({ family, change }: FamilyChange): LogEntry {
  const rule = commandOf(family, change);
  return { level: "info", event: "rule", message: `- ${rule}`, rule, action: "remove" };
}

/** Closes all bridges that kvmnatd opened for 127.0.0.1. */
async function closeBridges(host: Host): Promise<SysctlsWritten> {
  return writeSysctls(host, async () => {
    const { addresses } = await host.readLinks();
    return findClosings(host, addresses.keys(), NOTHING_DESIRED);
  });
}

/** `kvmnatd teardown`. */
export async function teardown(context: Context): Promise<number> {
  const { paths, style, print, complain } = context;
  const daemon = await readLiveStatus(paths.runtimeDir);
  if (daemon !== undefined)
    complain(
      `${style("yellow", "warning")}: kvmnatd runs as process ${daemon.pid} and puts its rules back at once; ` +
        "stop it first (systemctl stop kvmnatd)",
    );
  const removed: string[] = [];
  const { count, failures } = await removeOwned(createHost(paths), new Set(), ({ message }) => {
    print(style("red", message));
    removed.push(message);
  });
  if (count > 0)
    await logToJournal(context, ["all rules of kvmnatd: removed (kvmnatd teardown)", ...removed]);
  for (const { message } of failures) complain(`kvmnatd: rules of kvmnatd may be left: ${message}`);
  if (failures.length > 0) return EXIT.failed;
  if (count === 0) print("nothing to remove: no rule, chain or jump of kvmnatd is here");
  return EXIT.ok;
}
