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
