import type { Family } from "../net/address.ts";
import { createHints, scheduleHint } from "./hints.ts";
import type { HintKind, PassRequest } from "./hints.ts";
import { toReloaded } from "./loop-state.ts";
import type { Reloaded } from "./loop-state.ts";
import { createPassRunner } from "./pass-runner.ts";
import type { PassOutcome, RunnerOptions } from "./pass-runner.ts";
import { IDLE, onHint, passFailed, passStarted, passSucceeded, sleepMs, SLEEP_MAX_MS } from "./schedule.ts";
import type { Schedule } from "./schedule.ts";

export interface Loop {
  /**
   * Reports that something may have changed.
   * @param family of `rules`: the family whose iptables rules have changed; undefined: any rules
   */
  hint(trigger: string, kind?: HintKind, family?: Family): void;
  /** Requests a pass. @returns when a whole pass that started after this call has ended */
  reload(): Promise<Reloaded>;
  /**
   * Makes passes, one at a time, until the signal is aborted.
   * @throws ConfigError when there is no valid config at start
   */
  run(signal: AbortSignal): Promise<void>;
}

export interface LoopOptions extends RunnerOptions {
  /** Interval between calls of `onProgress` while nothing happens, in ms; undefined: no calls are needed. */
  readonly heartbeatMs: number | undefined;
}

/** The daemon: hints in, passes out. */
export function createLoop(options: LoopOptions): Loop {
  const { host, events, heartbeatMs } = options;
  const runner = createPassRunner(options);
  const hints = createHints("start");
  let schedule = onHint(IDLE, host.now());
  let reloads: ((reloaded: Reloaded) => void)[] = [];
  let sleep = new AbortController();
  /** The clock at the last look. If it is earlier now, it was set back, and the scheduled times are wrong. */
  let lastLookMs = host.now();
  /** The last pass did not use the config on disk, which may still be being written. */
  let isConfigOpen = false;

  function hint(trigger: string, kind: HintKind = "plain", family?: Family): void {
    hints.add(trigger, kind, family);
    schedule = scheduleHint(schedule, kind, host.now());
    sleep.abort();
  }

  function reload(): Promise<Reloaded> {
    const reloaded = new Promise<Reloaded>((resolve) => reloads.push(resolve));
    hint("reload", "resync");
    return reloaded;
  }

  async function run(signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => sleep.abort(), { once: true });
    while (!signal.aborted) {
      events.onProgress();
      if (await sleepUntilDue()) await runPass();
    }
  }

  /** @returns false when something else ended the sleep. Time that was slept is over even if the clock was set back. */
  async function sleepUntilDue(): Promise<boolean> {
    const nowMs = host.now();
    const isSetBack = nowMs < lastLookMs;
    lastLookMs = nowMs;
    const waitMs = sleepMs(schedule, nowMs);
    if (isSetBack || waitMs === 0) return true;
    const sleptMs = Math.min(waitMs ?? SLEEP_MAX_MS, heartbeatMs ?? SLEEP_MAX_MS);
    sleep = new AbortController();
    await host.sleep(sleptMs, sleep.signal);
    return !sleep.signal.aborted && sleptMs === waitMs;
  }

  async function runPass(): Promise<void> {
    schedule = passStarted(schedule, host.now());
    const request = hints.take({ isLast: schedule.secondLookAtMs === undefined, isForConfig: isConfigOpen });
    const waiting = reloads;
    reloads = [];
    const outcome = await runner.run(request, schedule);
    if (hasFailed(outcome)) hints.add("retry", isResyncOpen(outcome, request) ? "resync" : "plain");
    isConfigOpen = outcome.result?.view.lookAgainAtMs !== undefined;
    schedule = passEnded(schedule, host.now(), outcome);
    await runner.publish(outcome, request, schedule);
    if (isConfigOpen) reloads.push(...waiting);
    else for (const answer of waiting) answer(describeOutcome(outcome));
  }

  return { hint, reload, run };
}

function hasFailed({ result }: PassOutcome): boolean {
  return result === undefined || result.failed;
}

/** Whether the pass ended before it read the ports in use. */
function isResyncOpen({ result }: PassOutcome, { isResync }: PassRequest): boolean {
  return isResync && result === undefined;
}

function passEnded(schedule: Schedule, nowMs: number, { result, wakeAtMs }: PassOutcome): Schedule {
  return result === undefined || result.failed
    ? passFailed(schedule, nowMs, wakeAtMs)
    : passSucceeded(schedule, nowMs, { changed: result.changed, wakeAtMs });
}

function describeOutcome({ result, error }: PassOutcome): Reloaded {
  return result === undefined ? { configError: undefined, failures: [error.message] } : toReloaded(result);
}
