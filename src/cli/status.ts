import { formatHostPort } from "../net/address.ts";
import type { CountedForward } from "../status/counters.ts";
import { updatePortsInUse } from "../status/ports-in-use.ts";
import { oneLine, printable } from "../sanitize.ts";
import type { DaemonStatus } from "../status/status.ts";
import { EXIT, KvmnatdError } from "../errors.ts";
import { missingCapabilities } from "../host/exec/capabilities.ts";
import { readListeners } from "../host/network/listening-sockets.ts";
import { readLiveStatus, refuseUnreadable } from "../host/files/status-file.ts";
import type { Context } from "./context.ts";
import { printJson } from "./context.ts";
import { withCounters } from "./counters.ts";
import { renderTable, shortTime } from "./table.ts";

export const NO_DAEMON =
  "kvmnatd does not run; start it with `systemctl start kvmnatd` (rules that it left, if any, stay in force)";

/** `kvmnatd status`: prints the state of every forward, and the problems. */
export async function status(context: Context): Promise<number> {
  const published = await readLiveStatus(context.paths.runtimeDir);
  if (published === undefined) {
    await refuseUnreadable(context.paths.runtimeDir);
    if (context.json) printJson(context, { running: false, forwards: [], problems: [] });
    else context.print(NO_DAEMON);
    return EXIT.notRunning;
  }
  const daemon = await withPortsInUse(published);
  const forwards = await withCounters(daemon);
  if (context.json) printJson(context, { running: true, ...daemon, forwards });
  else printStatus(context, daemon, forwards);
  const well = forwards.every((forward) => forward.state === "active");
  const hasOnlyWarnings = daemon.problems.every((problem) => problem.severity === "warning");
  return well && hasOnlyWarnings ? EXIT.ok : EXIT.degraded;
}

/**
 * Reads the ports in use again, because no event reports that a process begins to listen. If they cannot be read, those
 * of the status stay.
 */
export async function withPortsInUse(daemon: DaemonStatus): Promise<DaemonStatus> {
  try {
    return { ...daemon, problems: updatePortsInUse(daemon, await readListeners()) };
  } catch (error) {
    if (error instanceof KvmnatdError) return daemon;
    throw error;
  }
}

const HEAD = ["GUEST", "PUBLISHED", "TARGET", "STATE", "LEASE EXPIRES", "PACKETS/BYTES", "WHY"];

function printStatus(context: Context, daemon: DaemonStatus, forwards: readonly CountedForward[]): void {
  for (const line of describeDaemon(context, daemon)) context.print(line);
  if (forwards.length > 0) context.print(`\n${describeForwards(context, forwards).join("\n")}`);
  const isUncounted = forwards.some(({ state, packets }) => state === "active" && packets === null);
  if (isUncounted && missingCapabilities().includes("CAP_NET_ADMIN"))
    context.print("\npackets and bytes are not shown: to read them takes root or CAP_NET_ADMIN");
}

/** Which daemon it is, then its problems; a line each. */
export function describeDaemon(
  { style }: Context,
  { version, pid, startedAt, iptables, forwards, problems }: DaemonStatus,
): readonly string[] {
  const active = forwards.filter((forward) => forward.state === "active").length;
  const head =
    `kvmnatd ${version}, process ${pid}, since ${shortTime(startedAt)}; ` +
    `${active} of ${forwards.length} forwards active, iptables-${iptables ?? "?"}`;
  const lines = problems.map(({ severity, message }) => {
    const word = severity === "error" ? style("red", "error") : style("yellow", "warning");
    return `${word}: ${oneLine(message)}`;
  });
  return [head, ...lines];
}

/** The table: its head, then a line each. */
export function describeForwards(context: Context, forwards: readonly CountedForward[]): readonly string[] {
  const rows = forwards.map((forward) => toCells(context, forward));
  return renderTable(HEAD, rows).split("\n");
}

function toCells({ style }: Context, forward: CountedForward): readonly string[] {
  const color = ({ active: "green", pending: "yellow", degraded: "red" } as const)[forward.state];
  const { published, listen } = forward;
  const [host = forward.family === 6 ? "::" : "*"] = listen;
  const where = listen.length > 1 ? `${listen.join(",")}:${published}` : formatHostPort(host, published);
  return [
    printable(forward.guest, 40),
    `${where}/${forward.protocol}`,
    formatHostPort(forward.address ?? "?", forward.target),
    style(color, forward.state),
    forward.leaseExpires === null ? "-" : shortTime(forward.leaseExpires),
    forward.packets === null ? "-" : `${forward.packets}/${forward.bytes}`,
    oneLine(forward.why ?? ""),
  ];
}
