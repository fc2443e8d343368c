/*
 * When the next pass runs. Pure: the clock is an argument.
 *
 *   hint ------> now, but PASS_GAP_MS after the start of the last pass that a hint requested
 *   rules hint > now, but 25 ms after that start; the gap grows while such passes find nothing to do
 *   file hint -> and once more SECOND_LOOK_MS later
 *   success ---> when a lease expires, linger ends or a guest is to be probed again
 *   failure ---> after 0.25 s, 0.5 s, 1 s ... 30 s, or when any of the above is due before that
 */
import { findEarliest } from "../earliest.ts";
import { lastMinute, RATE_WINDOW_MS } from "../rate-limit.ts";

/**
 * Interval between a file hint and the second pass for it. chokidar drops a second change within 50 ms and reports no
 * trailing event; measurements lost no change after this time.
 */
export const SECOND_LOOK_MS = 150;
/** Interval between the starts of two passes: a file rewritten 500 times per second must not use a whole core. */
export const PASS_GAP_MS = 100;
/**
 * Interval between the starts of two passes that only rules of other programs request: after no pass without a change,
 * after one and after two.
 */
const NOOP_GAPS_MS: readonly number[] = [25, 100, 300];
/** Maximum of that interval: from three passes without a change on, and while another program overwrites the rules. */
const MAX_GAP_MS = 950;
/**
 * Number of repairs per minute from which kvmnatd reports that another program overwrites its rules. From then on it
 * repairs them once per second at most, so the report ends only below a much lower number.
 */
const OVERWRITTEN_FROM = 60;
const OVERWRITTEN_UNTIL = 30;
/** Time without a hint after which the count of passes without a change begins again. */
const QUIET_MS = 2000;
/** Interval between a failed pass and its retry; it doubles with each failure. */
const RETRY_FIRST_MS = 250;
const RETRY_MAX_MS = 30_000;
/** Maximum sleep: setTimeout takes 31 bits. A pass that is due later is only made earlier. */
export const SLEEP_MAX_MS = 3_600_000;

/** What requests a pass: anything that may have changed, or only rules of other programs. */
type Requester = "change" | "rules";

/** All times are epoch ms; undefined: nothing is due. */
export interface Schedule {
  /** When the pass that a hint requested is due. */
  readonly requestAtMs: number | undefined;
  readonly requestedBy: Requester | undefined;
  /** When time alone changes the result. */
  readonly wakeAtMs: number | undefined;
  /** When a failed pass is repeated. */
  readonly retryAtMs: number | undefined;
  /** When a file is read a second time, whatever the pass before finds. */
  readonly secondLookAtMs: number | undefined;
  /** What requested the current or last pass; undefined: time alone started it. */
  readonly servedRequest: Requester | undefined;
  /** Only rules of other programs requested the current pass. */
  readonly isForRulesOnly: boolean;
  readonly lastStartMs: number | undefined;
  /** Start of the last pass that a hint requested: passes that time alone starts must not delay a hint. */
  readonly lastRequestedMs: number | undefined;
  /** Number of successive passes that rules of other programs requested and that changed nothing. */
  readonly noopPasses: number;
  /** When kvmnatd repaired rules after other programs within the last minute. */
  readonly repairedAtMs: readonly number[];
  /** Another program overwrites the repairs again and again. */
  readonly overwritten: boolean;
  /** Number of successive failed passes. */
  readonly failures: number;
}

export const IDLE: Schedule = {
  requestAtMs: undefined,
  requestedBy: undefined,
  wakeAtMs: undefined,
  retryAtMs: undefined,
  secondLookAtMs: undefined,
  servedRequest: undefined,
  isForRulesOnly: false,
  lastStartMs: undefined,
  lastRequestedMs: undefined,
  noopPasses: 0,
  repairedAtMs: [],
  overwritten: false,
  failures: 0,
};

/** Requests a pass now. The first hint after a quiet time does not wait. */
export function onHint(schedule: Schedule, nowMs: number): Schedule {
  return request(schedule, "change", notBefore(schedule.lastRequestedMs, PASS_GAP_MS, nowMs));
}

/** Requests a pass now and a second one after the events have settled: the file may change again without an event. */
export function onFileHint(schedule: Schedule, nowMs: number): Schedule {
  return { ...onHint(schedule, nowMs), secondLookAtMs: nowMs + SECOND_LOOK_MS };
}

/** Requests a pass because rules have changed. A program that changes rules all the time costs one pass per second. */
export function onRulesHint(schedule: Schedule, nowMs: number): Schedule {
  const { lastRequestedMs, requestedBy = "rules" } = schedule;
  return request(schedule, requestedBy, notBefore(lastRequestedMs, rulesGapMs(schedule), nowMs));
}

function request(schedule: Schedule, requestedBy: Requester, atMs: number): Schedule {
  return { ...schedule, requestedBy, requestAtMs: Math.min(schedule.requestAtMs ?? atMs, atMs) };
}

function rulesGapMs({ noopPasses, overwritten }: Schedule): number {
  return overwritten ? MAX_GAP_MS : (NOOP_GAPS_MS[noopPasses] ?? MAX_GAP_MS);
}

/** A pass starts: it serves everything that is due or requested. */
export function passStarted(schedule: Schedule, nowMs: number): Schedule {
  const { requestedBy, secondLookAtMs, wakeAtMs, lastRequestedMs, failures } = schedule;
  const isTimeDue = [secondLookAtMs, wakeAtMs].some((atMs) => atMs !== undefined && atMs <= nowMs);
  const isAfterQuiet = nowMs - (lastRequestedMs ?? Number.NEGATIVE_INFINITY) > QUIET_MS;
  return {
    ...schedule,
    requestAtMs: undefined,
    requestedBy: undefined,
    wakeAtMs: undefined,
    retryAtMs: undefined,
    secondLookAtMs: isSecondLookDueLater(secondLookAtMs, nowMs) ? secondLookAtMs : undefined,
    servedRequest: requestedBy,
    isForRulesOnly: requestedBy === "rules" && failures === 0 && !isTimeDue,
    lastStartMs: nowMs,
    lastRequestedMs: requestedBy === undefined ? lastRequestedMs : nowMs,
    noopPasses: isAfterQuiet ? 0 : schedule.noopPasses,
  };
}

/** One that is further away than it ever is was scheduled before the clock was set back. */
function isSecondLookDueLater(atMs: number | undefined, nowMs: number): boolean {
  return atMs !== undefined && atMs > nowMs && atMs <= nowMs + SECOND_LOOK_MS;
}

export interface Success {
  /** Whether the kernel's rules differed from the desired rules. */
  readonly changed: boolean;
  /** When time alone changes the result, epoch ms; undefined: never. */
  readonly wakeAtMs: number | undefined;
}

export function passSucceeded(schedule: Schedule, nowMs: number, { changed, wakeAtMs }: Success): Schedule {
  const isForRules = schedule.servedRequest === "rules";
  const before = lastMinute(schedule.repairedAtMs, nowMs);
  const repairedAtMs = isForRules && changed ? [...before, nowMs] : before;
  const overwritten = repairedAtMs.length >= (schedule.overwritten ? OVERWRITTEN_UNTIL : OVERWRITTEN_FROM);
  // When the other program stops, no event arrives: a pass in one minute clears the problem.
  const clearAtMs = overwritten ? nowMs + RATE_WINDOW_MS : undefined;
  return {
    ...schedule,
    failures: 0,
    noopPasses: isForRules && !changed ? schedule.noopPasses + 1 : 0,
    repairedAtMs,
    overwritten,
    wakeAtMs: findEarliest([notTooSoon(schedule, nowMs, wakeAtMs), clearAtMs]),
  };
}

/**
 * Schedules the retry of a pass that failed.
 * @param wakeAtMs when time alone changes the result, epoch ms: a failure must not keep a lease from ending
 */
export function passFailed(schedule: Schedule, nowMs: number, wakeAtMs?: number): Schedule {
  const waitMs = Math.min(RETRY_FIRST_MS * 2 ** schedule.failures, RETRY_MAX_MS);
  return {
    ...schedule,
    failures: schedule.failures + 1,
    retryAtMs: nowMs + waitMs,
    wakeAtMs: notTooSoon(schedule, nowMs, wakeAtMs),
  };
}

/** A time in the past must not start one pass after the other. */
function notTooSoon({ lastStartMs }: Schedule, nowMs: number, atMs: number | undefined): number | undefined {
  return atMs === undefined ? undefined : Math.max(atMs, notBefore(lastStartMs, PASS_GAP_MS, nowMs));
}

/** How long to sleep until the next pass, in ms; undefined: until a hint. */
export function sleepMs(schedule: Schedule, nowMs: number): number | undefined {
  const { requestAtMs, wakeAtMs, retryAtMs, secondLookAtMs } = schedule;
  const atMs = findEarliest([requestAtMs, wakeAtMs, retryAtMs, secondLookAtMs]);
  return atMs === undefined ? undefined : Math.min(Math.max(atMs - nowMs, 0), SLEEP_MAX_MS);
}

/** A clock that was set back must not delay a pass. */
function notBefore(lastMs: number | undefined, gapMs: number, nowMs: number): number {
  const nextMs = (lastMs ?? Number.NEGATIVE_INFINITY) + gapMs;
  return nextMs - nowMs > gapMs ? nowMs : Math.max(nextMs, nowMs);
}
