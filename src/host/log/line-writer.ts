import { constants, fstatSync, openSync, write } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoOf } from "../../errors.ts";

/** A reader that stands still, or a full disk, must not take all memory; in UTF-16 units, which are bytes mostly. */
const MAX_QUEUED = 10_000_000;
/** As much as a pipe holds. */
const CHUNK = 65_536;
/** A pipe that was full is tried again soon, and less and less often while nothing moves. */
const RETRY_FIRST_MS = 5;
const RETRY_MAX_MS = 1000;

export interface LineWriter {
  /** Takes a line, with its newline, and returns at once. */
  write(line: string): void;
  /** Waits until all is written, but no longer than so. */
  flush(withinMs: number): Promise<void>;
  /** The error (`ENOSPC`) that keeps what waits from being written; undefined while it is only a slow reader's turn. */
  error(): string | undefined;
}

export interface LineWriterOptions {
  /** Called when lines are taken again, after so many had to be dropped. */
  readonly onLost: (lines: number) => void;
  /** Called when {@link LineWriter.error} changes. */
  readonly onError: () => void;
  /** For tests. */
  readonly write?: (
    fd: number,
    bytes: Uint8Array,
    done: (error: Error | null, written: number) => void,
  ) => void;
}

/**
 * Lines to a file, terminal, pipe or socket, in their order. Whoever writes never waits: what is not taken waits here.
 * @param fd of {@link openStdout}, mostly: a write to it must not block, or the process cannot end meanwhile
 */
export function createLineWriter(fd: number, options: LineWriterOptions): LineWriter {
  const { onLost, onError, write: writeSome = writeBytes } = options;
  const queue: string[] = [];
  let queued = 0;
  /** What is being written. */
  let chunk: Uint8Array = new Uint8Array();
  let busy = false;
  let lost = 0;
  let waitMs = RETRY_FIRST_MS;
  let trouble: string | undefined;

  function next(): void {
    if (chunk.length === 0) chunk = takeChunk();
    busy = chunk.length > 0;
    if (busy) writeSome(fd, chunk, onWritten);
  }

  function takeChunk(): Uint8Array {
    let length = 0;
    let count = 0;
    while (count < queue.length && length < CHUNK) length += queue[count++]?.length ?? 0;
    queued -= length;
    return Buffer.from(queue.splice(0, count).join(""));
  }

  function onWritten(error: Error | null, written: number): void {
    const code = error === null ? undefined : errnoOf(error);
    if (error !== null && code === undefined) throw error;
    setTrouble(code === "EAGAIN" ? undefined : code);
    if (code !== undefined) {
      setTimeout(next, waitMs);
      waitMs = Math.min(waitMs * 2, RETRY_MAX_MS);
      return;
    }
    waitMs = RETRY_FIRST_MS;
    chunk = chunk.subarray(written);
    // Not before half of it is free: one gap is told, not thousands.
    if (lost > 0 && queued < MAX_QUEUED / 2) endLoss();
    next();
  }

  function endLoss(): void {
    const lines = lost;
    lost = 0;
    onLost(lines);
  }

  function setTrouble(code: string | undefined): void {
    if (code === trouble) return;
    trouble = code;
    onError();
  }

  return {
    write(line) {
      if (lost > 0 || queued + line.length > MAX_QUEUED) {
        lost += 1;
        return;
      }
      queue.push(line);
      queued += line.length;
      if (!busy) next();
    },
    flush: async (withinMs) => {
      const endsAtMs = performance.now() + withinMs;
      const isOver = (): boolean => !busy || performance.now() >= endsAtMs;
      while (!isOver()) await sleep(RETRY_FIRST_MS);
    },
    error: () => trouble,
  };
}

function writeBytes(
  fd: number,
  bytes: Uint8Array,
  done: (error: Error | null, written: number) => void,
): void {
  write(fd, bytes, done);
}

/**
 * Standard output, such that no write to it blocks: one that does would keep even `process.exit` waiting (libuv joins
 * its threads). A pipe or terminal is opened once more for that: O_NONBLOCK belongs to the open file, which other
 * processes may share, and one of them may take it away. A socket cannot be opened again; it does not block either
 * since Node made `process.stdout` of it.
 */
export function openStdout(): number {
  const stat = fstatSync(1);
  if (!stat.isFIFO() && !stat.isCharacterDevice()) return 1;
  try {
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
    return openSync("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch (error) {
    // Somebody else's terminal (su), or a pipe whose reader has gone.
    if (errnoOf(error) !== undefined) return 1;
    throw error;
  }
}
