import { writeFile } from "node:fs/promises";
import { errnoOf } from "../../errors.ts";
import { runCommand } from "../exec/run-command.ts";
import { UNNAMED } from "../../status/ports-in-use.ts";
import type { Listener } from "../../status/ports-in-use.ts";

/** Reads the listening sockets of host processes. Names need root; without it they are `a process`. */
export async function readListeners(): Promise<readonly Listener[]> {
  const { stdout } = await runCommand(["ss", "-H", "-l", "-n", "-t", "-u", "-p"]);
  return stdout.split("\n").flatMap((line) => {
    const [netid, , , , local = ""] = line.trim().split(/\s+/);
    const port = Number(local.slice(local.lastIndexOf(":") + 1));
    if ((netid !== "tcp" && netid !== "udp") || !Number.isInteger(port) || port === 0) return [];
    const address = local.slice(0, local.lastIndexOf(":")).replace(/%.*$/, "");
    const named = /users:\(\("((?:[^"\\]|\\.)*)",pid=(\d+)/.exec(line);
    const process = named?.[1] === undefined ? UNNAMED : `${named[1]} (pid ${named[2]})`;
    return [{ protocol: netid, address, port, process }];
  });
}

/** Sets the name of this process in ps, top and the journal, which is Node's `MainThread` else. @param name at most 15 bytes (prctl(2)) */
export async function describeProcess(name: string): Promise<void> {
  try {
    await writeFile("/proc/self/comm", name);
  } catch (error) {
    // The name has no other effect.
    if (errnoOf(error) === undefined) throw error;
  }
}
