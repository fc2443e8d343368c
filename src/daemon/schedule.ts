/*
 * When the next pass runs. Pure: the clock is an argument.
 *
 *   hint ------> now, but PASS_GAP_MS after the start of the last pass that a hint asked for
 *   rules hint > the same; the gap grows while such passes find nothing to do
 *   file hint -> and once more SECOND_LOOK_MS later
 *   success ---> when a lease expires, linger ends or a neighbour is to be asked again
 *   failure ---> after 0.25 s, 0.5 s, 1 s ... 30 s, or when any of the above is due before that
 */

import { lastMinute, RATE_WINDOW_MS } from "../rate-limit.ts";

/** chokidar drops a second change within 50 ms and has no trailing event; measured: nothing is missed after this long. */
export const SECOND_LOOK_MS = 150;
/** Between the starts of two passes: a file rewritten 500 times a second must not take the processor. */
export const PASS_GAP_MS = 100;
/** Intervals before a pass that only foreign rules caused, after zero, one, and two or more such passes without a change. */
const VAIN_GAPS_MS: readonly number[] = [25, 100, 300];
const BUSY_GAP_MS = 950;
/**
 * Number of repairs within a minute that shows that another program keeps undoing them. From then on kvmnatd repairs once
 * a second, so the limit for the end must be far lower.
 */
const FIGHT_BEGINS = 60;
const FIGHT_LASTS = 30;
/** Without a hint for so long, what comes next is a new story. */
const QUIET_MS = 2000;
const RETRY_FIRST_MS = 250;
const RETRY_MAX_MS = 30_000;
/** setTimeout takes 31 bits; what is further away is simply looked at earlier. */
const SLEEP_MAX_MS = 3_600_000;

/** The cause of a pass: any change, or a change of foreign rules alone. */
type Asked = "hint" | "rules";

export interface Schedule {
  /** When a pass is due; absent: nothing is to be done. */
  readonly dueAtMs?: number;
  /** When time alone will change the outcome. */
  readonly wakeAtMs?: number;
  /** When to look once more, whatever the pass before it found. */
  readonly secondLookAtMs?: number;
  /** The cause of the pass that is due; absent: a timer. */
  readonly asked?: Asked;
  /** The same of the pass that runs or ran last. */
  readonly served?: Asked;
  /** Only foreign rules caused it. */
  readonly rulesOnly?: boolean;
  readonly lastStartMs?: number;
  /** Start of the last pass that was asked for: those that time alone makes must not make a change wait. */
  readonly lastAskedMs?: number;
  /** Consecutive passes that foreign rules caused and that changed nothing. */
  readonly vain: number;
  /** Times of repairs within the last minute. */
  readonly repairedAtMs: readonly number[];
  /** Another program keeps undoing kvmnatd's repairs. */
  readonly fought: boolean;
  readonly failures: number;
}

export const IDLE: Schedule = { failures: 0, vain: 0, repairedAtMs: [], fought: false };

/** Something may have changed: look now. The first hint after a quiet time waits for nothing. */
export function onHint(cadence: Schedule, nowMs: number): Schedule {
  return { ...due(cadence, notBefore(cadence.lastAskedMs, PASS_GAP_MS, nowMs)), asked: "hint" };
}

/** The same for a file, which may change again unseen right after: look once more when the events have settled. */
export function onFileHint(cadence: Schedule, nowMs: number): Schedule {
  return { ...onHint(cadence, nowMs), secondLookAtMs: nowMs + SECOND_LOOK_MS };
}

/** Another program changed the rules. A program that keeps changing them causes at most one pass a second. */
export function onRulesHint(cadence: Schedule, nowMs: number): Schedule {
  const { lastAskedMs, asked = "rules" } = cadence;
  return { ...due(cadence, notBefore(lastAskedMs, rulesGapMs(cadence), nowMs)), asked };
}

function rulesGapMs({ vain, fought }: Schedule): number {
  return fought ? BUSY_GAP_MS : (VAIN_GAPS_MS[vain] ?? BUSY_GAP_MS);
}

/** A pass begins: it serves everything that was due. */
export function passStarted(cadence: Schedule, nowMs: number): Schedule {
  const { secondLookAtMs, wakeAtMs, asked, lastAskedMs, failures, repairedAtMs, fought } = cadence;
  const later = secondLookAtMs !== undefined && secondLookAtMs > nowMs;
  const isDue = [secondLookAtMs, wakeAtMs].some((atMs) => atMs !== undefined && atMs <= nowMs);
  const askedMs = asked === undefined ? lastAskedMs : nowMs;
  // After a quiet time no program keeps changing them.
  const quiet = nowMs - (lastAskedMs ?? Number.NEGATIVE_INFINITY) > QUIET_MS;
  return {
    failures,
    repairedAtMs,
    fought,
    vain: quiet ? 0 : cadence.vain,
    lastStartMs: nowMs,
    rulesOnly: asked === "rules" && failures === 0 && !isDue,
    ...(asked === undefined ? {} : { served: asked }),
    ...(askedMs === undefined ? {} : { lastAskedMs: askedMs }),
    ...(later ? { secondLookAtMs } : {}),
  };
}

export interface Success {
  /** Whether the kernel was not as it should be. */
  readonly changed: boolean;
  /** When time alone will change the outcome, epoch ms. */
  readonly wakeAtMs?: number | undefined;
}

export function passSucceeded(cadence: Schedule, nowMs: number, { changed, wakeAtMs }: Success): Schedule {
  const forRules = cadence.served === "rules";
  const before = lastMinute(cadence.repairedAtMs, nowMs);
  const repairedAtMs = forRules && changed ? [...before, nowMs] : before;
  const fought = repairedAtMs.length >= (cadence.fought ? FIGHT_LASTS : FIGHT_BEGINS);
  const done: Schedule = {
    ...cadence,
    failures: 0,
    vain: forRules && !changed ? cadence.vain + 1 : 0,
    repairedAtMs,
    fought,
  };
  // The end of the changes causes no event.
  const calm = fought ? due(done, nowMs + RATE_WINDOW_MS) : done;
  // The clock was set back meanwhile: what the pass made of the time before is worth nothing.
  if (nowMs < (cadence.lastStartMs ?? nowMs)) return { ...due(calm, nowMs), wakeAtMs: nowMs };
  return wakeAt(calm, nowMs, wakeAtMs);
}

/**
 * Something could not be done.
 * @param wakeAtMs when time alone will change the outcome, epoch ms: what fails must not keep a lease from ending
 */
export function passFailed(cadence: Schedule, nowMs: number, wakeAtMs?: number): Schedule {
  const waitMs = Math.min(RETRY_FIRST_MS * 2 ** cadence.failures, RETRY_MAX_MS);
  return wakeAt(due({ ...cadence, failures: cadence.failures + 1 }, nowMs + waitMs), nowMs, wakeAtMs);
}

function wakeAt(cadence: Schedule, nowMs: number, wakeAtMs: number | undefined): Schedule {
  if (wakeAtMs === undefined) return cadence;
  const atMs = Math.max(wakeAtMs, notBefore(cadence.lastStartMs, PASS_GAP_MS, nowMs));
  return { ...due(cadence, atMs), wakeAtMs: atMs };
}

/** How long to sleep until the next pass, in ms; undefined: until a hint comes. */
export function sleepMs(cadence: Schedule, nowMs: number): number | undefined {
  const at = Math.min(
    cadence.dueAtMs ?? Number.POSITIVE_INFINITY,
    cadence.secondLookAtMs ?? Number.POSITIVE_INFINITY,
  );
  return at === Number.POSITIVE_INFINITY ? undefined : Math.min(Math.max(at - nowMs, 0), SLEEP_MAX_MS);
}

function due(cadence: Schedule, atMs: number): Schedule {
  return { ...cadence, dueAtMs: Math.min(cadence.dueAtMs ?? atMs, atMs) };
}

/** A clock that was set back must not make a pass wait. */
function notBefore(lastMs: number | undefined, gapMs: number, nowMs: number): number {
  const next = (lastMs ?? Number.NEGATIVE_INFINITY) + gapMs;
  return next - nowMs > gapMs ? nowMs : Math.max(next, nowMs);
}
