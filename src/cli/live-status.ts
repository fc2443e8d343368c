import { setTimeout } from "node:timers/promises";
import type { CountedForward } from "../status/counters.ts";
import { cut, describeWindow, QUIT_KEYS, scroll, windowAt, wrap } from "./screen.ts";
import type { Size, Window } from "./screen.ts";
import type { DaemonStatus } from "../status/status.ts";
import { EXIT } from "../errors.ts";
import { createStatusReader } from "../host/files/status-file.ts";
import { isTerminal, openTerminal } from "./terminal.ts";
import type { Context } from "./context.ts";
import { withCounters } from "./counters.ts";
import { describeDaemon, describeForwards, NO_DAEMON, withPortsInUse } from "./status.ts";

/** Interval between checks whether the status has changed. */
const POLL_MS = 200;
/** Interval between readings of the counters of an unchanged status. */
const COUNTERS_MS = 2000;

/** What the screen shows; undefined: no daemon runs. */
type Seen = { readonly daemon: DaemonStatus; readonly forwards: readonly CountedForward[] } | undefined;

/** `kvmnatd status --watch`: shows the status, live, until the user quits or the signal comes. */
export async function showLiveStatus(context: Context, signal: AbortSignal): Promise<number> {
  if (!isTerminal()) {
    context.complain(
      "error: --watch needs a terminal; without one use `kvmnatd status`, or `--json` for programs",
    );
    return EXIT.usage;
  }
  const quit = new AbortController();
  let seen: Seen;
  let shown: Window = { first: 0, end: 0 };
  const redraw = (first = shown.first): void => {
    const screen = compose(context, seen, terminal.size(), first);
    shown = screen.window;
    terminal.draw(screen.lines);
  };
  const terminal = openTerminal({
    onKey: (key) =>
      QUIT_KEYS.has(key) ? quit.abort() : redraw(scroll(shown, key, seen?.forwards.length ?? 0)),
    onResize: redraw,
    onHangup: () => quit.abort(),
  });
  try {
    await follow(context.paths.runtimeDir, AbortSignal.any([signal, quit.signal]), (now) => {
      seen = now;
      redraw();
    });
  } finally {
    terminal.close();
  }
  return EXIT.ok;
}

/** Reports the status at first, after each change, and with new counters at intervals; until the signal. */
async function follow(folder: string, signal: AbortSignal, onChange: (seen: Seen) => void): Promise<void> {
  const read = createStatusReader(folder);
  let last: DaemonStatus | undefined;
  let shownAtMs = Number.NEGATIVE_INFINITY;
  while (!signal.aborted) {
    const daemon = await read();
    if (daemon !== last || performance.now() - shownAtMs >= COUNTERS_MS) {
      onChange(daemon === undefined ? undefined : await readDetails(daemon));
      last = daemon;
      shownAtMs = performance.now();
    }
    await setTimeout(POLL_MS, undefined, { signal }).catch(() => undefined);
  }
}

async function readDetails(daemon: DaemonStatus): Promise<Seen> {
  const [now, forwards] = await Promise.all([withPortsInUse(daemon), withCounters(daemon)]);
  return { daemon: now, forwards };
}

/**
 * The screen: the daemon and its problems, as many forwards as there is room for, and a line that counts the others.
 * @param first index of the first forward on the screen
 */
function compose(
  context: Context,
  seen: Seen,
  { rows, columns }: Size,
  first: number,
): { readonly lines: readonly string[]; readonly window: Window } {
  const forwards = seen?.forwards ?? [];
  const summary =
    seen === undefined ? [`${NO_DAEMON}; waiting for it`] : describeDaemon(context, seen.daemon);
  // Problems leave room for forwards, whatever their number.
  const head = summary.flatMap((line) => wrap(line, columns)).slice(0, Math.ceil(rows / 2));
  // A blank line, the table's head, and the last line.
  const window = windowAt(first, rows - head.length - 3, forwards.length);
  const table = describeForwards(context, forwards.slice(window.first, window.end));
  const lines = [...head, "", ...(forwards.length > 0 ? table : [])].map((line) => cut(line, columns));
  const last = context.style("dim", cut(describeWindow(window, forwards.length), columns));
  return { lines: [...lines.slice(0, rows - 1), last], window };
}
