import { countForwards } from "../status/counters.ts";
import type { CountedForward } from "../status/counters.ts";
import { parseCounters } from "../rules/parse-save.ts";
import type { CountedRule } from "../rules/parse-save.ts";
import type { DaemonStatus } from "../status/status.ts";
import { KvmnatdError } from "../errors.ts";
import { readCounters } from "../host/netfilter/iptables.ts";

/** Counters come from the kernel, now; without the right to read them they are left out. */
export async function withCounters(daemon: DaemonStatus): Promise<readonly CountedForward[]> {
  const families = [...new Set(daemon.forwards.map(({ family }) => family))];
  const rules = families.map(async (family) => [family, await countersOf(daemon, family)] as const);
  return countForwards(daemon.forwards, new Map(await Promise.all(rules)));
}

async function countersOf({ iptables }: DaemonStatus, family: 4 | 6): Promise<readonly CountedRule[]> {
  if (iptables === null) return [];
  try {
    return parseCounters(
      await readCounters({ variant: iptables, infix: `-${iptables}` }, family),
      "KVMNATD-DNAT",
    );
  } catch (error) {
    if (error instanceof KvmnatdError) return [];
    throw error;
  }
}
