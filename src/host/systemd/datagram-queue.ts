import { writeSync } from "node:fs";
import { errnoOf } from "../../errors.ts";

/** Interval between attempts while the socket is full: journald takes 512 datagrams at once, and 20 us an entry. */
const RETRY_MS = 5;
/** Maximum number of waiting datagrams: a journald that hangs must not take all memory. */
const MAX_QUEUED = 100_000;
/** Timeout for the queue at the end of the program. */
const FLUSH_MS = 2000;

export interface Datagrams {
  /** @param onFailure called, perhaps later, when this datagram cannot be sent */
  send(datagram: Uint8Array, onFailure: () => void): void;
  /** Sends the waiting datagrams before the process ends. */
  flush(): void;
}

interface Waiting {
  readonly datagram: Uint8Array;
  readonly onFailure: () => void;
}

/** @returns `full` when the datagram can be sent later, `failed` when it cannot be sent */
type Send = (datagram: Uint8Array) => "sent" | "full" | "failed";

/**
 * Sends datagrams in order; those that find the socket full wait.
 * @param fd a connected, non-blocking AF_UNIX datagram socket
 * @param write for tests
 */
export function createDatagrams(
  fd: number,
  write: (fd: number, bytes: Uint8Array) => number = writeSync,
): Datagrams {
  return createQueue(createSocket(fd, write));
}

/** Node cannot connect to a datagram socket, but a write to one that another process has connected sends a datagram. */
function createSocket(fd: number, write: (fd: number, bytes: Uint8Array) => number): Send {
  return (datagram) => {
    try {
      write(fd, datagram);
      return "sent";
    } catch (error) {
      const code = errnoOf(error);
      if (code === undefined) throw error;
      return code === "EAGAIN" || code === "ENOBUFS" ? "full" : "failed";
    }
  };
}

function createQueue(send: Send): Datagrams {
  const queue: Waiting[] = [];
  let timer: NodeJS.Timeout | undefined;

  /** @returns false when the socket is full */
  function sendOne({ datagram, onFailure }: Waiting): boolean {
    const outcome = send(datagram);
    if (outcome === "failed") onFailure();
    return outcome !== "full";
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
