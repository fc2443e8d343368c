// Logs entries as the daemon does: those of the burst, then, once standard input says so, one more of each kind.
import { once } from "node:events";
import { writeSync } from "node:fs";
import { createLogger } from "../../src/host/log/logger.ts";

const logger = createLogger({
  format: "journal",
  level: "info",
  color: false,
  onProblem: () => undefined,
  journalFd: Number(process.env["KVMNATD_JOURNAL_FD"]),
});
for (let number = 0; number < Number(process.argv[2]); number += 1)
  logger.log({
    level: "info",
    event: "rule",
    message: `+ rule ${number}`,
    guest: "web",
    rule: `rule ${number}`,
    action: "add",
    pass: 7,
    reason: "start",
  });
writeSync(1, "written\n");
await once(process.stdin, "data");
logger.log({ level: "warn", event: "forward-conflict", message: "web: conflict", guest: "web", pass: 8 });
logger.log({ level: "info", event: "stop", message: "kvmnatd stops" });
await logger.flush();
process.exit(0);
