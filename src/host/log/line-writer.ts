import { constants, fstatSync, openSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import sonicBoom from "sonic-boom";
import { errnoOf } from "../../errors.ts";

/** Maximum size of the lines that wait, in bytes: a reader that stands still, or a full disk, must not take all memory. */
const MAX_BUFFERED = 10_000_000;
/** Interval between attempts to write after an error, such as a full disk. */
const RETRY_MS = 1000;

export interface LineWriter {
  /** Accepts a line, with its newline, and returns at once. */
  write(line: string): void;
  /** Waits until all lines are written, at most for the given time. */
  flush(withinMs: number): Promise<void>;
  /** The error (`ENOSPC`) that prevents writing; undefined while lines are written or only wait for a slow reader. */
  error(): string | undefined;
}

export interface LineWriterOptions {
  /** Called after lines had to be dropped, when the lines before them are written. */
  readonly onDropped: (lines: number) => void;
  /** Called when {@link LineWriter.error} changes. */
  readonly onError: () => void;
  /** For tests. */
  readonly maxBuffered?: number;
}

/**
 * Writes lines to a file, terminal, pipe or socket, in order. The caller never waits: up to 10 MB are buffered; lines
 * beyond that are dropped and counted.
 * @param fd mostly of {@link openStdout}: a write to it must not block, because the process cannot exit meanwhile
 */
export function createLineWriter(fd: number, options: LineWriterOptions): LineWriter {
  const { onDropped, onError, maxBuffered = MAX_BUFFERED } = options;
  // flush() works only with a minimum length.
  const file = new sonicBoom.SonicBoom({ fd, minLength: 1, maxLength: maxBuffered });
  let dropped = 0;
  let failure: string | undefined;
  let retry: NodeJS.Timeout | undefined;

  function setFailure(code: string | undefined): void {
    if (code === failure) return;
    failure = code;
    onError();
  }

  file.on("drop", () => (dropped += 1));
  file.on("write", () => setFailure(undefined));
  file.on("drain", () => {
    const lines = dropped;
    dropped = 0;
    if (lines > 0) onDropped(lines);
  });
  file.on("error", (error: Error) => {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    setFailure(code);
    retry ??= setTimeout(() => {
      retry = undefined;
      file.flush();
    }, RETRY_MS);
  });

  return {
    write: (line) => {
      // One gap, at whose place the count is logged, instead of many.
      if (dropped > 0) dropped += 1;
      else file.write(line);
    },
    flush: (withinMs) =>
      Promise.race([new Promise<void>((done) => file.flush(() => done())), pause(withinMs)]),
    error: () => failure,
  };
}

/**
 * Opens standard output so that no write to it blocks: a blocking write would delay even `process.exit`, because libuv
 * joins its threads. A pipe or terminal is opened once more: O_NONBLOCK belongs to the open file, which other processes
 * may share and change. A socket cannot be opened again; Node has made it non-blocking for `process.stdout`.
 */
export function openStdout(): number {
  const stat = fstatSync(1);
  if (!stat.isFIFO() && !stat.isCharacterDevice()) return 1;
  try {
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
    return openSync("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch (error) {
    // Another user's terminal (su), or a pipe whose reader has gone.
    if (errnoOf(error) !== undefined) return 1;
    throw error;
  }
}
