import type { Family } from "../../net/address.ts";
import type { StaleFlows } from "../../conntrack/stale-flows.ts";
import { CommandError } from "../../errors.ts";
import type { Launcher } from "../exec/launcher.ts";

/** The lines of `conntrack -L`. @throws CommandError when the program is missing or may not read them */
export async function listFlows(launcher: Launcher, family: Family): Promise<readonly string[]> {
  const { stdout } = await launcher.run(["conntrack", "-L", ...familyOption(family)]);
  return stdout.split("\n");
}

/** @returns the number of entries removed: some may have ended since they were listed */
export async function removeFlows(
  launcher: Launcher,
  { flow, selector }: StaleFlows,
  family: Family,
): Promise<number> {
  const { initiator, protocol, sourcePort, originalDestination, replySource, replySourcePort } = flow;
  const { port, source, state } = selector;
  // conntrack calls the packets of the end that began it "original", and those of the other "reply".
  const [request, answer] = initiator === "client" ? ["orig", "reply"] : ["reply", "orig"];
  const argv = [
    "conntrack",
    "-D",
    ...familyOption(family),
    ...option("-p", protocol),
    ...option(`--${request}-dst`, originalDestination),
    ...option(`--${answer}-src`, replySource),
    ...option(`--${request}-port-dst`, port),
    ...option(`--${answer}-port-src`, port === undefined ? undefined : replySourcePort),
    ...option(`--${request}-src`, source),
    ...option(
      `--${request}-port-src`,
      source !== undefined && initiator === "server" ? sourcePort : undefined,
    ),
    ...option("--state", state),
  ];
  try {
    return deletedCount((await launcher.run(argv)).stderr) ?? 1;
  } catch (error) {
    // Exit code 1 means either that it failed or that there was none.
    if (error instanceof CommandError && deletedCount(error.stderr) === 0) return 0;
    throw error;
  }
}

function option(name: string, value: string | number | undefined): readonly string[] {
  return value === undefined ? [] : [name, String(value)];
}

function deletedCount(stderr: string): number | undefined {
  const count = /(\d+) flow entries have been deleted/.exec(stderr)?.[1];
  return count === undefined ? undefined : Number(count);
}

function familyOption(family: Family): readonly string[] {
  return ["-f", family === 4 ? "ipv4" : "ipv6"];
}
