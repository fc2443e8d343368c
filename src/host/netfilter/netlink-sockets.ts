import { setTimeout } from "node:timers/promises";
import { KvmnatdError } from "../../errors.ts";
import { readProc } from "../network/proc.ts";

/** Numbers in linux/netlink.h of the protocols that monitors listen to. */
const PROTOCOLS = { links: "0", rules: "12" } as const;
type Protocol = keyof typeof PROTOCOLS;

/** The socket by which a process listens to the kernel. */
interface ListeningSocket {
  readonly listens: boolean;
  /** Whether events wait to be read. */
  readonly waits: boolean;
}

const POLL_MS = 10;
/** Timeout for the start of a monitor. Its socket may have another number than its PID, and is then not found. */
const LISTENS_MS = 10_000;

/** A monitor listens 10 ms after its start; `nft monitor` first reads all rules, which takes seconds for 100,000. */
export async function untilListens(pid: number, protocol: Protocol, ended: AbortSignal): Promise<void> {
  const startedAtMs = performance.now();
  for (;;) {
    const waitedMs = performance.now() - startedAtMs;
    if (ended.aborted || waitedMs > LISTENS_MS || readSocket(pid, protocol).listens) return;
    await setTimeout(Math.max(POLL_MS, waitedMs / 10));
  }
}

/** Reads /proc/net/netlink: `sk Eth Pid Groups Rmem ...`; Rmem is the number of bytes that wait to be read. */
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

/** Empty while no more files can be opened: the caller tries again. */
function readNetlink(): string {
  try {
    return readProc("/proc/net/netlink") ?? "";
  } catch (error) {
    if (error instanceof KvmnatdError) return "";
    throw error;
  }
}
