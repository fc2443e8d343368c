import { commandOf } from "../core/plan.ts";
import { clear, readAllSides } from "../daemon/kernel.ts";
import { CommandError, EXIT } from "../errors.ts";
import type { KvmnatdError } from "../errors.ts";
import { readLiveStatus } from "../host/status-file.ts";
import { createHost } from "../wire.ts";
import type { Context } from "./context.ts";

/**
 * `kvmnatd teardown`: removes every rule, chain and jump of ours, of both families and both of iptables' variants.
 * Needs no config: a broken one must not keep anybody from it. What cannot be read keeps nobody from the rest.
 */
export async function teardown(context: Context): Promise<number> {
  const host = createHost(context.paths);
  const tool = await host.chooseIptables("auto");
  const failures: KvmnatdError[] = [];
  let removed = 0;
  for (const { family, sides, error: unread } of await readAllSides(host, tool)) {
    // A host without IPv6 has no ip6tables, and nothing of ours there.
    const isAbsent = family === 6 && unread instanceof CommandError && unread.isMissing;
    if (unread !== undefined && !isAbsent) failures.push(unread);
    for (const side of sides) {
      const { applied, error } = await clear(host, side);
      for (const change of applied) context.print(context.colors.red(`- ${commandOf(family, change)}`));
      removed += applied.length;
      if (error !== undefined) failures.push(error);
    }
  }
  for (const { message } of failures) context.complain(`kvmnatd: rules of ours may be left: ${message}`);
  if (failures.length > 0) return EXIT.failed;
  if (removed === 0) context.print("nothing to remove: no rule, chain or jump of kvmnatd is here");
  return EXIT.ok;
}

/** For an admin: says whose work it undoes. */
export async function teardownByHand(context: Context): Promise<number> {
  const daemon = await readLiveStatus(context.paths.runtimeDir);
  if (daemon !== undefined)
    context.complain(
      `${context.colors.yellow("warning")}: kvmnatd runs as process ${daemon.pid} and puts its rules back at once; ` +
        "stop it first (systemctl stop kvmnatd)",
    );
  return teardown(context);
}
