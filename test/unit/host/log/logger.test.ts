import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { catalogEntryFor } from "../../../../src/log/message-catalog.ts";

const SUPPORT = join(import.meta.dirname, "../../../support");
const BURST = 5000;

interface Outcome {
  /** Datagrams that journald's socket received. */
  readonly entries: readonly string[];
  /** Text that standard output received. */
  readonly lines: string;
}

/** The real logger, in a process of its own, that writes to a real socket. */
function logBurst(socket: "stays" | "gone"): Outcome {
  const command = [join(SUPPORT, "journal-socket.py"), `${BURST}`, process.execPath];
  const stdout = execFileSync("python3", [...command, join(SUPPORT, "log-burst.ts"), `${BURST}`], {
    encoding: "utf8",
    env: { ...process.env, KVMNATD_TEST_SOCKET: socket },
    maxBuffer: 100_000_000,
  });
  const [entries = "", lines = ""] = stdout.split("\0\0");
  return { entries: entries.split("\0"), lines };
}

/** More entries than the socket accepts at once: the logger queues the rest. */
const burst = Array.from({ length: BURST }, (_, number) =>
  [
    `MESSAGE=+ rule ${number}`,
    "PRIORITY=6",
    "SYSLOG_IDENTIFIER=kvmnatd",
    "KVMNATD_EVENT=rule",
    "KVMNATD_GUEST=web",
    `KVMNATD_RULE=rule ${number}`,
    "KVMNATD_ACTION=add",
    "KVMNATD_PASS=7",
    "KVMNATD_REASON=start\n",
  ].join("\n"),
);

it("the logger sends every entry of a burst in order when the socket is full in between", () => {
  const { entries, lines } = logBurst("stays");
  expect(lines).toBe("");
  expect(entries.slice(0, BURST)).toEqual(burst);
  expect(entries.slice(BURST)).toEqual([
    `MESSAGE=web: conflict\nMESSAGE_ID=${catalogEntryFor("forward-conflict")?.id}\nPRIORITY=4\nSYSLOG_IDENTIFIER=kvmnatd\n` +
      "KVMNATD_EVENT=forward-conflict\nKVMNATD_GUEST=web\nKVMNATD_PASS=8\n",
    `MESSAGE=kvmnatd stops\nMESSAGE_ID=${catalogEntryFor("stop")?.id}\nPRIORITY=6\nSYSLOG_IDENTIFIER=kvmnatd\nKVMNATD_EVENT=stop\n`,
  ]);
});

it("the logger writes lines with their priority to standard output when the socket is gone", () => {
  const { entries, lines } = logBurst("gone");
  expect(entries).toEqual(burst);
  expect(lines).toBe("<4>web: conflict\n<6>kvmnatd stops\n");
});
