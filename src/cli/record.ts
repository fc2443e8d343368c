import { CommandError } from "../errors.ts";
import { writeToJournal } from "../host/systemd/journal-cat.ts";
import type { Context } from "./context.ts";

/** Into the audit trail, what a command changed by itself. What is done is done, though it cannot be written down. */
export async function logToJournal({ complain }: Context, lines: readonly string[]): Promise<void> {
  try {
    await writeToJournal(lines);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    complain(`kvmnatd: not in the journal, which \`kvmnatd history\` reads: ${error.message}`);
  }
}
