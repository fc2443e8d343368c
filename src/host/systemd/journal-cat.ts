import { access } from "node:fs/promises";
import { errnoOf } from "../../errors.ts";
import { runCommand } from "../exec/run-command.ts";

const JOURNALD = "/run/systemd/journal/stdout";

/**
 * Writes lines of a command's into the journal, beside the daemon's: who reads what became of the rules must find all
 * of it. Nothing where no journald runs.
 * @throws CommandError when systemd-cat fails
 */
export async function writeToJournal(lines: readonly string[]): Promise<void> {
  try {
    await access(JOURNALD);
  } catch (error) {
    if (errnoOf(error) !== undefined) return;
    throw error;
  }
  await runCommand(["systemd-cat", "--identifier=kvmnatd"], {
    input: lines.map((line) => `${line}\n`).join(""),
  });
}
