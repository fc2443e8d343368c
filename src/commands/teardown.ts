import { commandOf } from "../core/plan.ts";
import { clear, readAllSides } from "../daemon/kernel.ts";
import { EXIT } from "../errors.ts";
import { createHost } from "../wire.ts";
import type { Context } from "./context.ts";

/**
 * `kvmnatd teardown`: removes every rule, chain and jump of ours, of both families and both of iptables' variants.
 * Needs no config: a broken one must not keep anybody from it.
 */
export async function teardown(context: Context): Promise<number> {
  const host = createHost(context.paths);
  const tool = await host.chooseIptables("auto");
  let removed = 0;
  for (const { family, sides, error: unread } of await readAllSides(host, tool)) {
    // A host without IPv6 has no ip6tables, and nothing of ours there.
    if (unread !== undefined && family === 4) throw unread;
    for (const side of sides) {
      const { applied, error } = await clear(host, side);
      for (const change of applied) context.print(context.colors.red(`- ${commandOf(family, change)}`));
      removed += applied.length;
      if (error !== undefined) throw error;
    }
  }
  if (removed === 0) context.print("nothing to remove: no rule, chain or jump of kvmnatd is here");
  return EXIT.ok;
}
