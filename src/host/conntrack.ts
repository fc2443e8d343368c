import type { Family } from "../core/address.ts";
import type { StaleFlows } from "../core/flows.ts";
import { CommandError } from "../errors.ts";
import { launchCommand } from "./launcher.ts";

/** The lines of `conntrack -L`. @throws CommandError where the program is missing or has no right to read */
export async function listFlows(family: Family): Promise<readonly string[]> {
  const { stdout } = await launchCommand(["conntrack", "-L", ...familyOption(family)]);
  return stdout.split("\n");
}

/** @returns how many were removed: some may have ended since they were listed */
export async function removeFlows(
  { flow, byPort, bySource, byState }: StaleFlows,
  family: Family,
): Promise<number> {
  const { protocol, asked, port, answerer, answerPort, source, state } = flow;
  const flows = ["-p", protocol, "--orig-dst", asked, "--reply-src", answerer];
  const only = [
    ...(byPort ? ["--orig-port-dst", `${port}`, "--reply-port-src", `${answerPort}`] : []),
    ...(bySource ? ["--orig-src", source] : []),
    ...(byState && state !== undefined ? ["--state", state] : []),
  ];
  const argv = ["conntrack", "-D", ...familyOption(family), ...flows, ...only];
  try {
    return deletedCount((await launchCommand(argv)).stderr);
  } catch (error) {
    // Exit code 1 says both that it failed and that there was none.
    if (error instanceof CommandError && deletedCount(error.stderr) === 0) return 0;
    throw error;
  }
}

function deletedCount(stderr: string): number {
  return Number(/(\d+) flow entries have been deleted/.exec(stderr)?.[1]);
}

function familyOption(family: Family): readonly string[] {
  return ["-f", family === 4 ? "ipv4" : "ipv6"];
}
