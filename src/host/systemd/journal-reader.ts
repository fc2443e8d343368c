import { JOURNAL_FIELDS, parseBoots, parseJournalEntry } from "../../history/parse-journal.ts";
import type { Boot, JournalEntry } from "../../history/parse-journal.ts";
import { CommandError, KvmnatdError } from "../../errors.ts";
import { readLines, runCommand } from "../exec/run-command.ts";

export interface JournalText {
  /** Entries of kvmnatd, oldest first. */
  readonly entries: readonly JournalEntry[];
  /** Oldest first. */
  readonly boots: readonly Boot[];
}

/** Entries of the service, under any identifier, and of `kvmnatd` commands of root. */
const OURS = ["_SYSTEMD_UNIT=kvmnatd.service", "+", "SYSLOG_IDENTIFIER=kvmnatd", "_UID=0"];

/**
 * Reads kvmnatd's log.
 * @param folder of a journal, as for `journalctl -D`; undefined: this host's journal
 * @throws KvmnatdError when there is no journal, or no right to read it
 */
export async function readJournal(folder: string | undefined): Promise<JournalText> {
  const journalctl = ["journalctl", ...(folder === undefined ? [] : [`--directory=${folder}`])];
  const entries: JournalEntry[] = [];
  const fields = `--output-fields=${JOURNAL_FIELDS.join(",")}`;
  const show = [...journalctl, "--all", "--output=json", fields, ...OURS];
  try {
    const said = await readLines(show, (line) => {
      const entry = parseJournalEntry(line);
      if (entry !== undefined) entries.push(entry);
    });
    // The exit code does not show it: journalctl prints the user's own entries.
    if (/not seeing messages from other users|insufficient permissions/.test(said)) throw denied();
    const { stdout } = await runCommand([...journalctl, "--list-boots"], { env: { TZ: "UTC" } });
    return { entries, boots: parseBoots(stdout) };
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    if (/insufficient permissions|permission denied/i.test(error.stderr)) throw denied(error);
    throw new KvmnatdError("journal", `the journal cannot be read: ${error.message}`, { cause: error });
  }
}

function denied(cause?: CommandError): KvmnatdError {
  const message =
    "the journal cannot be read: permission denied; run as root, or be a member of the group systemd-journal or adm";
  return new KvmnatdError("journal", message, { cause });
}
