import { writeSync } from "node:fs";
import { errnoOf } from "../../errors.ts";

/** A full queue (journald takes 512 datagrams at once) empties within milliseconds: measured 20 us an entry. */
const RETRY_MS = 5;
/** What is more than this has to be lost: a journald that hangs must not take all memory. */
const MAX_QUEUED = 100_000;
/** How long the end of the program may wait for the queue to empty. */
const FLUSH_MS = 2000;

export interface Datagrams {
  /** @param onFailure called, perhaps later, when this one cannot be sent at all */
  send(datagram: Uint8Array, onFailure: () => void): void;
  /** Sends what waits, before the process ends. */
  flush(): void;
}

interface Waiting {
  readonly datagram: Uint8Array;
  readonly onFailure: () => void;
}

/**
 * Node cannot connect to a datagram socket, but a write to one that somebody else has connected sends a datagram.
 * @param fd a connected AF_UNIX datagram socket; when it does not block, what finds it full waits here, in its order
 * @param write for tests
 */
export function createDatagrams(
  fd: number,
  write: (fd: number, bytes: Uint8Array) => number = writeSync,
): Datagrams {
  const queue: Waiting[] = [];
  let timer: NodeJS.Timeout | undefined;

  /** @returns false when the socket is full */
  function sendOne({ datagram, onFailure }: Waiting): boolean {
    try {
      write(fd, datagram);
    } catch (error) {
      const code = errnoOf(error);
      if (code === undefined) throw error;
      if (code === "EAGAIN" || code === "ENOBUFS") return false;
      onFailure();
    }
    return true;
  }

  function drain(): void {
    timer = undefined;
    const stuck = queue.findIndex((waiting) => !sendOne(waiting));
    queue.splice(0, stuck === -1 ? queue.length : stuck);
    if (queue.length > 0) timer = setTimeout(drain, RETRY_MS);
  }

  return {
    send(datagram, onFailure) {
      const waiting = { datagram, onFailure };
      if (queue.length === 0 && sendOne(waiting)) return;
      if (queue.length >= MAX_QUEUED) return onFailure();
      queue.push(waiting);
      timer ??= setTimeout(drain, RETRY_MS);
    },
    flush() {
      const endsAtMs = performance.now() + FLUSH_MS;
      while (queue.length > 0 && performance.now() < endsAtMs) {
        clearTimeout(timer);
        drain();
        if (queue.length > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS);
      }
      clearTimeout(timer);
      for (const { onFailure } of queue.splice(0)) onFailure();
    },
  };
}
