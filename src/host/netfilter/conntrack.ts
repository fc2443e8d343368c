import type { Family } from "../../net/address.ts";
import type { StaleFlows } from "../../conntrack/stale-flows.ts";
import { CommandError } from "../../errors.ts";
import type { Launcher } from "../exec/launcher.ts";

/** The lines of `conntrack -L`. @throws CommandError where the program is missing or has no right to read */
export async function listFlows(launcher: Launcher, family: Family): Promise<readonly string[]> {
  const { stdout } = await launcher.run(["conntrack", "-L", ...familyOption(family)]);
  return stdout.split("\n");
}

/** @returns how many were removed: some may have ended since they were listed */
export async function removeFlows(
  launcher: Launcher,
  { flow, beginner, byPort, bySource, byState }: StaleFlows,
  family: Family,
): Promise<number> {
  const {
    protocol,
    source,
    sourcePort,
    originalDestination: asked,
    port,
    replySource: answerer,
    replySourcePort: answerPort,
    state,
  } = flow;
  const [ask, answer] = beginner === "client" ? ["orig", "reply"] : ["reply", "orig"];
  const flows = ["-p", protocol, `--${ask}-dst`, asked, `--${answer}-src`, answerer];
  const only = [
    ...(byPort ? [`--${ask}-port-dst`, `${port}`, `--${answer}-port-src`, `${answerPort}`] : []),
    ...(bySource ? [`--${ask}-src`, source] : []),
    ...(bySource && beginner === "answerer" ? [`--${ask}-port-src`, `${sourcePort}`] : []),
    ...(byState && state !== undefined ? ["--state", state] : []),
  ];
  const argv = ["conntrack", "-D", ...familyOption(family), ...flows, ...only];
  try {
    // It fails where there was none.
    return deletedCount((await launcher.run(argv)).stderr) ?? 1;
  } catch (error) {
    // Exit code 1 says both that it failed and that there was none.
    if (error instanceof CommandError && deletedCount(error.stderr) === 0) return 0;
    throw error;
  }
}

function deletedCount(stderr: string): number | undefined {
  const count = /(\d+) flow entries have been deleted/.exec(stderr)?.[1];
  return count === undefined ? undefined : Number(count);
}

function familyOption(family: Family): readonly string[] {
  return ["-f", family === 4 ? "ipv4" : "ipv6"];
}
