import { setTimeout } from "node:timers/promises";
import type { PortMap } from "../config/port-map.ts";
import type { KvmnatdError } from "../errors.ts";
import type { UnverifiedChanges } from "../daemon/apply.ts";
import type { LogEntry } from "../log/audit-entries.ts";
import type { Host, Logger } from "../host-interface.ts";
import type { Variant } from "../rules/ruleset.ts";
import { removeOwned } from "./teardown.ts";

const MAX_ATTEMPTS = 3;
/** Interval between attempts. */
const RETRY_MS = 200;

/**
 * Keeps or removes the rules when the daemon stops, and logs each removal.
 * @param usedVariants variants of iptables that may have rules of kvmnatd
 * @returns what became of the rules, for the log
 */
export async function leaveRules(
  host: Host,
  logger: Logger,
  onStop: PortMap["onStop"] | undefined,
  usedVariants: ReadonlySet<Variant>,
): Promise<string> {
  if (onStop !== "remove") return "rules stay (on_stop: keep)";
  const failures = await removeRules(host, logger, usedVariants);
  for (const { message } of failures)
    logger.log({
      level: "error",
      event: "teardown-incomplete",
      message: `rules of kvmnatd may be left: ${message}`,
    });
  return failures.length === 0 ? "rules removed" : "rules may be left: `kvmnatd teardown` removes them";
}

/** systemd ends all processes of a service at its stop, so a program that this starts may be killed too: try again. */
async function removeRules(
  host: Host,
  logger: Logger,
  usedVariants: ReadonlySet<Variant>,
): Promise<readonly KvmnatdError[]> {
  let isAnnounced = false;
  let unverified: readonly UnverifiedChanges[] = [];
  const logRemoval = (entry: LogEntry): void => {
    const message = "all rules of kvmnatd: removed (on_stop: remove)";
    if (!isAnnounced) logger.log({ level: "info", event: "rules-removed", message });
    isAnnounced = true;
    logger.log(entry);
  };
  for (let attempt = 1; ; attempt += 1) {
    const result = await removeOwned(host, usedVariants, logRemoval, unverified);
    if (result.failures.length === 0 || attempt === MAX_ATTEMPTS) return result.failures;
    ({ unverified } = result);
    await setTimeout(RETRY_MS);
  }
}
