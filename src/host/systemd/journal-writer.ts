import { createDatagrams } from "./datagram-queue.ts";
import type { Datagrams } from "./datagram-queue.ts";

type Fields = Readonly<Record<string, string>>;

/**
 * One entry in journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): `KEY=value` lines, or, where a value
 * has more than one line, `KEY`, its length in bytes (64 bits, little endian) and the value.
 */
function encodeEntry(fields: Fields): Uint8Array {
  const parts = Object.entries(fields).flatMap(([key, value]) => {
    if (!value.includes("\n")) return [Buffer.from(`${key}=${value}\n`)];
    const bytes = Buffer.from(value);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    return [Buffer.from(`${key}\n`), length, bytes, Buffer.from("\n")];
  });
  return Buffer.concat(parts);
}

export interface Journal {
  /** @param onFailure called, perhaps later, when journald does not take the entry */
  write(fields: Fields, onFailure: () => void): void;
  /** Before the process ends. */
  flush(): void;
}

/** @param fd a datagram socket that is connected to /run/systemd/journal/socket */
export function createJournal(fd: number, datagrams: Datagrams = createDatagrams(fd)): Journal {
  return {
    write: (fields, onFailure) => datagrams.send(encodeEntry(fields), onFailure),
    flush: () => datagrams.flush(),
  };
}
