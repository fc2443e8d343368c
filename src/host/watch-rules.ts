import { followForEver } from "./run-command.ts";

/**
 * Calls `onChange` after each change of the ruleset by anybody, ourselves included, until the signal: nft ends every
 * transaction with `# new generation N by process PID (NAME)`, 2 ms after it (nftables 1.0.6). iptables-legacy makes
 * no such events.
 */
export async function watchRules(onChange: () => void, signal: AbortSignal): Promise<void> {
  const onLine = (line: string): void => {
    if (line.startsWith("# new generation")) onChange();
  };
  await followForEver(["nft", "monitor"], onLine, signal);
}
