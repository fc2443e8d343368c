import { followForEver } from "./run-command.ts";

/**
 * A rule came or went in a table that concerns us. Only rules are listened to: elements of sets, which a busy firewall
 * changes a thousand times a second, cost nothing here, and a table that is deleted takes its rules along, one line
 * each (nftables 1.0.6). iptables-legacy makes no events.
 */
const OURS = /^(add|insert|delete|replace) rule ip6? (raw|filter|nat|libvirt_network) /;

/** So many rules came at once that the kernel dropped some of the events, ours perhaps among them: `# ERROR: We lost ...` */
const LOST = /^# (ERROR|WARN)/;

/** How long after a change of our own its events may still be under way: measured 2 ms, rarely 10. */
const LATE_MS = 100;

export interface RuleWatch {
  /**
   * Runs a change of our own.
   * @param rules how many rules it adds and removes: that many events are ours
   */
  expecting<T>(rules: number, change: () => Promise<T>): Promise<T>;
  /** Until the signal. */
  watch(signal: AbortSignal): Promise<void>;
}

/**
 * Tells of changes by others. Whose an event is, is not known: as many as we make are left out, each in its time, so
 * that one of another in between is told all the same when ours comes.
 * @param onState whether the monitor runs
 */
export function createRuleWatch(onChange: () => void, onState: (runs: boolean) => void): RuleWatch {
  let expected = 0;
  let underWay = 0;
  let settling: NodeJS.Timeout | undefined;

  /** Fewer than we made: it failed, or was cut short, or something was missed. */
  function settle(): void {
    if (underWay > 0 || expected === 0) return;
    expected = 0;
    onChange();
  }

  function onLine(line: string): void {
    if (LOST.test(line)) return onChange();
    if (!OURS.test(line)) return;
    if (expected > 0) expected -= 1;
    else onChange();
  }

  return {
    expecting: async (rules, change) => {
      expected += rules;
      underWay += 1;
      clearTimeout(settling);
      try {
        return await change();
      } finally {
        underWay -= 1;
        settling = setTimeout(settle, LATE_MS).unref();
      }
    },
    watch: (signal) => followForEver(["nft", "monitor", "rules"], { onLine, onState }, signal),
  };
}
