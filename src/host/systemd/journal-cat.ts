import { access } from "node:fs/promises";
import { errnoOf } from "../../errors.ts";
import { runCommand } from "../exec/run-command.ts";

const JOURNALD = "/run/systemd/journal/stdout";

/**
 * Writes lines of a command into the journal, beside the daemon's, so that the journal has every change of the rules.
 * Does nothing when journald does not run.
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
