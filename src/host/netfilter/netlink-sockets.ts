import { setTimeout } from "node:timers/promises";
import { KvmnatdError } from "../../errors.ts";
import { readProc } from "../network/proc.ts";

/** What is listened to, by its number in linux/netlink.h. */
const PROTOCOLS = { links: "0", rules: "12" } as const;
type Protocol = keyof typeof PROTOCOLS;

/** The socket by which a process listens to the kernel. */
interface ListeningSocket {
  readonly listens: boolean;
  /** There is something that it has not read yet. */
  readonly waits: boolean;
}

const POLL_MS = 10;
/** By then it is taken to listen: its socket has another number than its process where somebody had that one already. */
const LISTENS_MS = 10_000;

/** It listens 10 ms after its start, but what reads all rules before that, a hundred thousand, takes seconds. */
export async function untilListens(pid: number, protocol: Protocol, ended: AbortSignal): Promise<void> {
  const startedAtMs = performance.now();
  for (;;) {
    const waitedMs = performance.now() - startedAtMs;
    if (ended.aborted || waitedMs > LISTENS_MS || readSocket(pid, protocol).listens) return;
    await setTimeout(Math.max(POLL_MS, waitedMs / 10));
  }
}

/** As /proc/net/netlink has it: `sk Eth Pid Groups Rmem ...`, where Rmem is what waits to be read, in bytes. */
export function readSocket(pid: number, protocol: Protocol): ListeningSocket {
  const rows = readNetlink()
    .split("\n")
    .map((row) => row.split(/\s+/));
  const own = rows.find(
    ([, number, owner, groups]) =>
      number === PROTOCOLS[protocol] && owner === String(pid) && Number.parseInt(groups ?? "", 16) !== 0,
  );
  return { listens: own !== undefined, waits: own !== undefined && own[4] !== "0" };
}

/** No more files can be opened: it is asked again. */
function readNetlink(): string {
  try {
    return readProc("/proc/net/netlink") ?? "";
  } catch (error) {
    if (error instanceof KvmnatdError) return "";
    throw error;
  }
}
