import { setTimeout } from "node:timers/promises";
import type { Family } from "../core/address.ts";
import { createOthersRules, parseRuleEvent } from "../core/rule-events.ts";
import { KvmnatdError } from "../errors.ts";
import { readProc } from "./proc.ts";
import { restWhileBusy } from "./rest.ts";
import { followForEver } from "./follow-command.ts";
import type { Followed } from "./follow-command.ts";

/**
 * So many rules came at once that the kernel dropped some of the events, ours perhaps among them: `# ERROR: We lost ...`.
 * Said once; what is dropped after that, until all that waits is read, is dropped in silence (netlink_overrun in Linux).
 */
const LOST = /^# (ERROR|WARN)/;

/**
 * Only rules are listened to: elements of sets, which a busy firewall changes a thousand times a second, are not told, and
 * a table that is deleted takes its rules along, one line each (nftables 1.0.6). iptables-legacy makes no events. nft
 * writes a line out no sooner than with the next event, but for stdbuf (coreutils).
 */
const MONITOR = ["stdbuf", "--output=L", "nft", "-a", "monitor", "rules"];

/** How often to look whether the monitor has read what waits for it, and whether it listens. */
const DRAIN_POLL_MS = 100;
const LISTEN_POLL_MS = 10;
/** It listens 10 ms after its start, but reads all rules before that: a hundred thousand take seconds. */
const SOON_MS = 100;

/** How long after a change of our own its events may still be under way: 2 ms, rarely 10, or as long as it rests. */
const LATE_MS = 250;

/** What does not concern us is looked at all the same, if no sooner. */
const LOOK_LATER_MS = 10_000;

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
 * @param onChange told of which family iptables' rules have changed, if nothing else may have
 * @param onState whether the monitor runs
 * @param isCalm whether all was as it should be when it was looked at last: then rules that cannot be in the way of ours
 * wake nobody
 */
export function createRuleWatch(
  onChange: (family?: Family) => void,
  onState: (runs: boolean) => void,
  isCalm: () => boolean,
): RuleWatch {
  let expected = 0;
  let underWay = 0;
  let settling: NodeJS.Timeout | undefined;
  let monitor: number | undefined;
  let resting = new AbortController();
  let draining = false;
  const others = createOthersRules();
  const later = new Map<Family, NodeJS.Timeout>();

  /** Fewer than we made: it failed, or was cut short, or something was missed. */
  function settle(): void {
    settling = undefined;
    if (underWay > 0 || expected === 0) return;
    expected = 0;
    onChange();
  }

  /** A table may have become one that iptables cannot read, or an event have been judged wrongly. */
  function lookLater(family: Family): void {
    if (later.has(family)) return;
    const look = (): void => {
      later.delete(family);
      onChange(family);
    };
    later.set(family, globalThis.setTimeout(look, LOOK_LATER_MS).unref());
  }

  function onLoss(): void {
    others.forget();
    onChange();
    if (!draining) void drain();
  }

  /** Nothing is known of what happens until the monitor has nothing left to read. */
  async function drain(): Promise<void> {
    draining = true;
    await poll(DRAIN_POLL_MS, () => monitor === undefined || !readSocket(monitor).waits);
    draining = false;
    others.forget();
    onChange();
  }

  /** What happens before it listens, nobody tells. */
  async function listen(followed: Followed): Promise<void> {
    const { pid } = followed;
    const startedAtMs = performance.now();
    await poll(LISTEN_POLL_MS, () => monitor !== pid || readSocket(pid).listens);
    if (performance.now() - startedAtMs > SOON_MS) onChange();
    if (monitor !== pid) return;
    resting = new AbortController();
    await restWhileBusy(followed, () => draining || readSocket(pid).waits, resting.signal);
  }

  function onMonitor(runs: boolean, followed?: Followed): void {
    monitor = followed?.pid;
    resting.abort();
    others.forget();
    onState(runs);
    if (followed !== undefined) void listen(followed);
  }

  function onLine(line: string): void {
    if (LOST.test(line)) return onLoss();
    const event = parseRuleEvent(line);
    if (event === undefined) return;
    if (expected > 0) {
      expected -= 1;
      others.sawOwn(event);
    } else if (underWay > 0 || settling !== undefined) {
      // It may be told in the place of another.
      others.sawOwn(event);
      onChange();
    } else if (others.concerns(event) || !isCalm())
      onChange(event.table === "libvirt_network" ? undefined : event.family);
    else lookLater(event.family);
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
        settling = globalThis.setTimeout(settle, LATE_MS).unref();
      }
    },
    watch: (signal) => followForEver(MONITOR, { onLine, onState: onMonitor }, signal),
  };
}

async function poll(everyMs: number, isOver: () => boolean): Promise<void> {
  while (!isOver()) await setTimeout(everyMs, undefined, { ref: false });
}

interface Socket {
  readonly listens: boolean;
  /** There is something that it has not read yet. */
  readonly waits: boolean;
}

/**
 * The socket by which a process listens to nftables, as /proc/net/netlink has it: `sk Eth Pid Groups Rmem ...`, where
 * Eth 12 is NETLINK_NETFILTER and Rmem what waits to be read, in bytes.
 */
function readSocket(pid: number): Socket {
  const rows = readNetlink()
    .split("\n")
    .map((row) => row.split(/\s+/));
  const own = rows.find(([, protocol, owner, groups]) => {
    return protocol === "12" && owner === String(pid) && Number.parseInt(groups ?? "", 16) !== 0;
  });
  return { listens: own !== undefined, waits: own !== undefined && own[4] !== "0" };
}

/** No more files can be opened: it is asked again. */
function readNetlink(): string {
  try {
    return readProc("/proc/net/netlink") ?? "";
  } catch (error) {
    if (error instanceof KvmnatdError) return "";
    throw error;
  }
}
