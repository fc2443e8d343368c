/** One entry of kvmnatd in the journal. An entry that was written without fields has only a message. */
export interface JournalEntry {
  /** Epoch ms. */
  readonly atMs: number;
  /** The boot of the host that wrote it. */
  readonly boot: string;
  readonly pid: string;
  readonly message: string;
  readonly event: string | undefined;
  readonly guest: string | undefined;
  /** What caused the pass. */
  readonly reason: string | undefined;
  readonly pass: string | undefined;
}

/** One boot of the host, as far as the journal reaches. */
export interface Boot {
  readonly id: string;
  /** Time of its last entry, of any program; epoch ms. */
  readonly lastMs: number;
}

/** The fields that {@link parseJournalEntry} reads, besides the fields that journalctl always prints. */
export const JOURNAL_FIELDS: readonly string[] = [
  "MESSAGE",
  "_PID",
  ...["EVENT", "GUEST", "REASON", "PASS"].map((name) => `KVMNATD_${name}`),
];

/** Parses a line of `journalctl -o json`. @returns undefined for a line that is not an entry */
export function parseJournalEntry(line: string): JournalEntry | undefined {
  const fields = parseObject(line);
  const atMs = Number(textOf(fields?.["__REALTIME_TIMESTAMP"])) / 1000;
  const message = textOf(fields?.["MESSAGE"]);
  if (fields === undefined || message === undefined || !Number.isFinite(atMs)) return undefined;
  return {
    atMs,
    boot: textOf(fields["_BOOT_ID"]) ?? "",
    pid: textOf(fields["_PID"]) ?? "",
    message,
    event: textOf(fields["KVMNATD_EVENT"]),
    guest: textOf(fields["KVMNATD_GUEST"]),
    reason: textOf(fields["KVMNATD_REASON"]),
    pass: textOf(fields["KVMNATD_PASS"]),
  };
}

function parseObject(line: string): Readonly<Record<string, unknown>> | undefined {
  try {
    return JSON.parse(line) as Readonly<Record<string, unknown>>;
  } catch (error) {
    // The last line is incomplete when journalctl was stopped.
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** journalctl prints an unprintable value as a list of bytes, and a repeated field as a list of values. */
function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return undefined;
  return value.every((each) => typeof each === "number")
    ? new TextDecoder().decode(Uint8Array.from(value))
    : textOf(value[0]);
}

const BOOT = /^ *-?\d+ ([0-9a-f]{32}) .*(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC *$/;

/** Parses `journalctl --list-boots` with TZ=UTC (systemd 252 to 257), the oldest first. */
export function parseBoots(text: string): readonly Boot[] {
  return text.split("\n").flatMap((line) => {
    const [, id, day, time] = BOOT.exec(line) ?? [];
    return id === undefined ? [] : [{ id, lastMs: Date.parse(`${day}T${time}Z`) }];
  });
}
