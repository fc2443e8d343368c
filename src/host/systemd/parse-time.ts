import { CommandError } from "../../errors.ts";
import { runCommand } from "../exec/run-command.ts";

/**
 * Parses a time as journalctl does, by the same code of systemd.
 * @param text `2026-11-23 03:00`, `03:00`, `yesterday`, `-2h`, `2h ago` ...
 * @returns epoch ms; undefined when the text is not a time
 * @throws CommandError when systemd-analyze is missing
 */
export async function readTime(text: string): Promise<number | undefined> {
  try {
    const { stdout } = await runCommand(["systemd-analyze", "timestamp", "--", text]);
    const seconds = /^ *UNIX seconds: @([\d.]+)$/m.exec(stdout)?.[1];
    return seconds === undefined ? undefined : Number(seconds) * 1000;
  } catch (error) {
    if (error instanceof CommandError && !error.isMissing) return undefined;
    throw error;
  }
}
