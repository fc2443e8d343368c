import { CommandError } from "../errors.ts";
import { writeToJournal } from "../host/systemd/journal-cat.ts";
import type { Context } from "./context.ts";

/** Logs the changes of a command to the journal. A failure is only reported, because the changes are already made. */
export async function logToJournal({ complain }: Context, lines: readonly string[]): Promise<void> {
  try {
    await writeToJournal(lines);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    complain(`kvmnatd: not in the journal, which \`kvmnatd history\` reads: ${error.message}`);
  }
}
