import { commandOf } from "../core/plan.ts";
import { FAMILIES } from "../daemon/observe.ts";
import { clear, readSides } from "../daemon/kernel.ts";
import { EXIT, KvmnatdError } from "../errors.ts";
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
  for (const family of FAMILIES) {
    for (const side of await sidesOf(family)) {
      const { applied, error } = await clear(host, side);
      for (const change of applied) context.print(context.colors.red(`- ${commandOf(family, change)}`));
      removed += applied.length;
      if (error !== undefined) throw error;
    }
  }
  if (removed === 0) context.print("nothing to remove: no rule, chain or jump of kvmnatd is here");
  return EXIT.ok;

  async function sidesOf(family: 4 | 6): Promise<Awaited<ReturnType<typeof readSides>>> {
    try {
      return await readSides(host, tool, family);
    } catch (error) {
      // A host without IPv6 has no ip6tables, and nothing of ours there.
      if (family === 6 && error instanceof KvmnatdError) return [];
      throw error;
    }
  }
}
