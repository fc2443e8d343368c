import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createWatchers } from "../../src/cli/watchers.ts";
import { createHost } from "../../src/host/create-host.ts";

/*
 * The daemon's watches alone, in a user namespace of their own, whose limit of inotify watches can be set without
 * harm to anybody: `watch.ts CONFIG FOLDER`; on standard input a number is the new limit. Prints each hint, and why
 * nobody tells of changes.
 */
const [config = "", dnsmasqDir = ""] = process.argv.slice(2);
const setLimit = (count: string): void => writeFileSync("/proc/sys/user/max_inotify_watches", count);
setLimit("0");
const paths = { config, dnsmasqDir, runtimeDir: "/nowhere" };
const watches = createWatchers(createHost(paths), paths);
watches.start((trigger) =>
  console.log(`hint: ${trigger}; ${watches.changeDetectionProblem("nft") ?? "all is heard"}`),
);
createInterface({ input: process.stdin }).on("line", setLimit);
