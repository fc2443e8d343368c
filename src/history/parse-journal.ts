/** One entry of kvmnatd's in the journal. One that was written without fields has a message only. */
export interface JournalEntry {
  /** Epoch ms. */
  readonly atMs: number;
  /** Which run of the host. */
  readonly boot: string;
  readonly pid: string;
  readonly message: string;
  readonly event?: string;
  readonly guest?: string;
  /** What made the pass run. */
  readonly reason?: string;
  readonly pass?: string;
}

/** A run of the host, as far as the journal goes. */
export interface Boot {
  readonly id: string;
  /** Its last entry, of any program; epoch ms. */
  readonly lastMs: number;
}

/** The fields that {@link parseJournalEntry} reads, besides those that journalctl always prints. */
export const JOURNAL_FIELDS: readonly string[] = [
  "MESSAGE",
  "_PID",
  ...["EVENT", "GUEST", "REASON", "PASS"].map((name) => `KVMNATD_${name}`),
];

/** Reads a line of `journalctl -o json`; undefined for what is none. */
export function parseJournalEntry(line: string): JournalEntry | undefined {
  const fields = parseObject(line);
  const atMs = Number(textOf(fields?.["__REALTIME_TIMESTAMP"])) / 1000;
  const message = textOf(fields?.["MESSAGE"]);
  if (fields === undefined || message === undefined || !Number.isFinite(atMs)) return undefined;
  const optional = (key: string, field: string): Partial<Record<string, string>> => {
    const text = textOf(fields[field]);
    return text === undefined ? {} : { [key]: text };
  };
  return {
    atMs,
    boot: textOf(fields["_BOOT_ID"]) ?? "",
    pid: textOf(fields["_PID"]) ?? "",
    message,
    ...optional("event", "KVMNATD_EVENT"),
    ...optional("guest", "KVMNATD_GUEST"),
    ...optional("reason", "KVMNATD_REASON"),
    ...optional("pass", "KVMNATD_PASS"),
  };
}

function parseObject(line: string): Readonly<Record<string, unknown>> | undefined {
  try {
    return JSON.parse(line) as Readonly<Record<string, unknown>>;
  } catch (error) {
    // The last line, when journalctl was stopped.
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** What is not printable comes as a list of bytes; a field that an entry has twice, as a list of values. */
function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return undefined;
  return value.every((each) => typeof each === "number")
    ? new TextDecoder().decode(Uint8Array.from(value))
    : textOf(value[0]);
}

const BOOT = /^ *-?\d+ ([0-9a-f]{32}) .*(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC *$/;

/** Reads `journalctl --list-boots` with TZ=UTC (systemd 252 to 257), the oldest first. */
export function parseBoots(text: string): readonly Boot[] {
  return text.split("\n").flatMap((line) => {
    const [, id, day, time] = BOOT.exec(line) ?? [];
    return id === undefined ? [] : [{ id, lastMs: Date.parse(`${day}T${time}Z`) }];
  });
}
