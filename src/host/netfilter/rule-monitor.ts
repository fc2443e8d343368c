import { setTimeout as pause } from "node:timers/promises";
import type { Family } from "../../net/address.ts";
import { isHarmless, parseRuleEvent } from "../../rules/monitor-events.ts";
import type { RuleEvent } from "../../rules/monitor-events.ts";
import type { FollowCommand } from "../exec/follow-command.ts";
import { readSocket, untilListens } from "./netlink-sockets.ts";
import { createOwnWrites } from "./own-writes.ts";

/**
 * The kernel dropped events because too many came at once: `# ERROR: We lost ...`. nft prints this once; the kernel
 * drops further events without notice until nft has read all that wait (netlink_overrun in Linux).
 */
const LOST = /^# (ERROR|WARN)/;

/**
 * Only rule events: a busy firewall changes elements of sets a thousand times a second, and a deleted table reports each
 * of its rules (nftables 1.0.6). iptables-legacy makes no events. Without stdbuf (coreutils), nft writes a line only
 * when the next event comes.
 */
const MONITOR = ["stdbuf", "--output=L", "nft", "-a", "monitor", "rules"];

/** Interval between checks whether the monitor has read all events that wait. */
const DRAIN_POLL_MS = 100;

/** Maximum delay of a pass after irrelevant events: one may have been judged wrongly, or have made a table unreadable. */
const RECHECK_MS = 10_000;

/** Maximum number of remembered harmless rules. Beyond it all are forgotten, and each removal asks for a pass. */
const MAX_HARMLESS = 10_000;

export interface RuleWatcher {
  /** Other programs changed rules. @param family of iptables' rules; undefined when other rules may have changed as well */
  readonly onChange: (family: Family | undefined) => void;
  /** Whether the monitor listens; changes before it listens are not reported. */
  readonly onState: (listens: boolean) => void;
}

export interface RuleMonitor {
  /**
   * Runs a change of kvmnatd's own, which must not be reported.
   * @param ruleCount number of rules that it adds and removes, and so of its events
   */
  expecting<T>(ruleCount: number, change: () => Promise<T>): Promise<T>;
  /** Reports changes by other programs until the signal. */
  watch(watcher: RuleWatcher, signal: AbortSignal): Promise<void>;
}

export function createRuleMonitor(followCommand: FollowCommand): RuleMonitor {
  let onChange: RuleWatcher["onChange"] = () => undefined;
  /** Rules of other programs, by handle: their removal is reported by handle alone. */
  const harmless = new Set<string>();
  const own = createOwnWrites(() => onChange(undefined));
  const recheckLater = createRecheck((family) => onChange(family));

  function reportAll(): void {
    harmless.clear();
    onChange(undefined);
  }

  function onEvent(line: string): void {
    const event = parseRuleEvent(line);
    if (event === undefined) return;
    // A handle may be reused in a table that is made again.
    const wasHarmless = harmless.delete(handleKey(event));
    const origin = own.claim();
    if (origin === "own") return;
    if (origin === "unknown") onChange(undefined);
    else if (wasHarmless && event.verb === "delete") recheckLater(event.family);
    else if (isHarmless(event)) {
      if (harmless.size >= MAX_HARMLESS) harmless.clear();
      harmless.add(handleKey(event));
      recheckLater(event.family);
    } else onChange(event.table === "libvirt_network" ? undefined : event.family);
  }

  async function watch(watcher: RuleWatcher, signal: AbortSignal): Promise<void> {
    onChange = watcher.onChange;
    let afterLoss: () => void = () => undefined;
    const onRun = async (pid: number, ended: AbortSignal): Promise<void> => {
      harmless.clear();
      afterLoss = drainOnce(pid, ended, reportAll);
      await untilListens(pid, "rules", ended);
      if (!ended.aborted) watcher.onState(true);
    };
    const onLine = (line: string): void => (LOST.test(line) ? afterLoss() : onEvent(line));
    await followCommand(MONITOR, { onLine, onRun, onEnd: () => watcher.onState(false) }, signal);
  }

  return { expecting: (ruleCount, change) => own.expecting(ruleCount, change), watch };
}

function handleKey({ family, table, handle }: RuleEvent): string {
  return `${family} ${table} ${handle}`;
}

/** Reports a family once, RECHECK_MS after the first of its events. */
function createRecheck(report: (family: Family) => void): (family: Family) => void {
  const pending = new Set<Family>();
  return (family) => {
    if (pending.has(family)) return;
    pending.add(family);
    setTimeout(() => {
      pending.delete(family);
      report(family);
    }, RECHECK_MS).unref();
  };
}

/** Reports a loss at once, and again when the monitor has read all events that waited: until then others may be lost. */
function drainOnce(pid: number, ended: AbortSignal, report: () => void): () => void {
  let isDraining = false;
  const drain = async (): Promise<void> => {
    isDraining = true;
    while (!ended.aborted && readSocket(pid, "rules").waits) await pause(DRAIN_POLL_MS);
    isDraining = false;
    report();
  };
  return () => {
    report();
    if (!isDraining) void drain();
  };
}
