import { setTimeout } from "node:timers/promises";
import type { Family } from "../../net/address.ts";
import { createForeignRules, parseRuleEvent } from "../../rules/monitor-events.ts";
import { readSocket, untilListens } from "./netlink-sockets.ts";
import { createOwnWrites } from "./own-writes.ts";
import { REST_MS, restWhileBusy } from "./throttle-monitor.ts";
import type { FollowCommand, Followed } from "../exec/follow-command.ts";

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

/** How often to look whether the monitor has read what waits for it. */
const DRAIN_POLL_MS = 100;

/** What does not concern us is looked at all the same, if no sooner. */
const LOOK_LATER_MS = 10_000;

export interface RuleMonitor {
  /**
   * Runs a change of our own.
   * @param rules how many rules it adds and removes: that many events are ours
   */
  expecting<T>(rules: number, change: () => Promise<T>): Promise<T>;
  /** Until the signal. */
  watch(signal: AbortSignal): Promise<void>;
}

/**
 * Tells of changes by others.
 * @param onChange told of which family iptables' rules have changed, if nothing else may have
 * @param onState whether the monitor listens; what happened before it does, nobody tells
 * @param isCalm whether all was as it should be when it was looked at last: then rules that cannot be in the way of ours
 * wake nobody
 */
export function createRuleMonitor(
  followCommand: FollowCommand,
  onChange: (family?: Family) => void,
  onState: (listens: boolean) => void,
  isCalm: () => boolean,
): RuleMonitor {
  const others = createForeignRules();
  const own = createOwnWrites(REST_MS, onChange);
  const later = new Map<Family, NodeJS.Timeout>();
  let onLoss: () => void = () => undefined;

  /** A table may have become one that iptables cannot read, or an event have been judged wrongly. */
  function lookLater(family: Family): void {
    if (later.has(family)) return;
    const look = (): void => {
      later.delete(family);
      onChange(family);
    };
    later.set(family, globalThis.setTimeout(look, LOOK_LATER_MS).unref());
  }

  async function onRun(followed: Followed, ended: AbortSignal): Promise<void> {
    let draining = false;
    /** Nothing is known of what happens until the monitor has nothing left to read. */
    const drain = async (): Promise<void> => {
      draining = true;
      while (!ended.aborted && readSocket(followed.pid, "rules").waits) await setTimeout(DRAIN_POLL_MS);
      draining = false;
      others.forget();
      onChange();
    };
    onLoss = () => {
      others.forget();
      onChange();
      if (!draining) void drain();
    };
    others.forget();
    await untilListens(followed.pid, "rules", ended);
    if (ended.aborted) return;
    onState(true);
    await restWhileBusy(followed, () => draining || readSocket(followed.pid, "rules").waits, ended);
  }

  function onLine(line: string): void {
    if (LOST.test(line)) return onLoss();
    const event = parseRuleEvent(line);
    if (event === undefined) return;
    const claim = own.claim();
    if (claim !== "others") {
      others.sawOwn(event);
      // It may be told in the place of another.
      if (claim === "unsure") onChange();
    } else if (others.concerns(event) || !isCalm())
      onChange(event.table === "libvirt_network" ? undefined : event.family);
    else lookLater(event.family);
  }

  return {
    expecting: (rules, change) => own.expecting(rules, change),
    watch: (signal) => followCommand(MONITOR, { onLine, onRun, onEnd: () => onState(false) }, signal),
  };
}
