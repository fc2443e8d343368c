import type { History, Holding } from "./holdings.ts";

/** The requested part of a history; times in epoch ms, undefined: no limit. */
export interface Selection {
  readonly guest: string | undefined;
  readonly port: number | undefined;
  readonly protocol: string | undefined;
  /** Selects holdings that ended after this time or last, and events since then. */
  readonly sinceMs: number | undefined;
  readonly untilMs: number | undefined;
}

/** @returns holdings by port and then by time, events by time */
export function selectHistory(history: History, selection: Selection): History {
  const { guest, port, protocol } = selection;
  const { sinceMs = Number.NEGATIVE_INFINITY, untilMs = Number.POSITIVE_INFINITY } = selection;
  // A holding that began before the journal is certain only from its beginning on.
  const beginsMs = history.beginsMs ?? Number.NEGATIVE_INFINITY;
  const holdings = history.holdings.filter(
    (each) =>
      (guest === undefined || each.guest === guest) &&
      (port === undefined || (each.published.first <= port && port <= each.published.last)) &&
      (protocol === undefined || each.protocol === protocol) &&
      (each.fromMs ?? beginsMs) <= untilMs &&
      (each.toMs ?? Number.POSITIVE_INFINITY) > sinceMs,
  );
  const guests = new Set(holdings.map((each) => each.guest));
  return {
    ...history,
    holdings: holdings.toSorted(inOrder),
    events: history.events.filter(
      (event) =>
        event.atMs >= sinceMs &&
        event.atMs <= untilMs &&
        (guest === undefined ? port === undefined || guests.has(event.guest) : event.guest === guest),
    ),
  };
}

function inOrder(one: Holding, other: Holding): number {
  return (
    one.published.first - other.published.first ||
    one.protocol.localeCompare(other.protocol) ||
    one.family - other.family ||
    (one.listen ?? "").localeCompare(other.listen ?? "") ||
    (one.fromMs ?? 0) - (other.fromMs ?? 0) ||
    (one.toMs ?? Number.POSITIVE_INFINITY) - (other.toMs ?? Number.POSITIVE_INFINITY)
  );
}
