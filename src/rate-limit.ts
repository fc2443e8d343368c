/*
 * The rate limit of everything that another program or a guest could make kvmnatd do without end: repairs, moves, log
 * lines. It counts the events of the last minute by key. Pure: the clock is an argument.
 */

/** Length of the window in which events are counted. */
export const RATE_WINDOW_MS = 60_000;

/** When the events of each key occurred, epoch ms, oldest first. */
export type RecentEvents = ReadonlyMap<string, readonly number[]>;

/**
 * @param times epoch ms
 * @returns the times within the last minute; a time in the future is dropped, because the clock was set back
 */
export function lastMinute(times: readonly number[], nowMs: number): readonly number[] {
  return times.filter((atMs) => atMs <= nowMs && nowMs - atMs < RATE_WINDOW_MS);
}

/** @returns how many events with this key occurred within the last minute */
export function countRecent(events: RecentEvents, key: string, nowMs: number): number {
  return lastMinute(events.get(key) ?? [], nowMs).length;
}

/** @returns the events of the last minute with one more, at `nowMs`; keys without an event in that minute are dropped */
export function recordEvent(events: RecentEvents, key: string, nowMs: number): RecentEvents {
  const recent = [...events].map(([each, times]) => [each, lastMinute(times, nowMs)] as const);
  const others = recent.filter(([each, times]) => each !== key && times.length > 0);
  return new Map([...others, [key, [...lastMinute(events.get(key) ?? [], nowMs), nowMs]]]);
}
