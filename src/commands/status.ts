import { ownerName, parseOwner } from "../core/owner.ts";
import { parseCounters } from "../core/parse-save.ts";
import type { Counters } from "../core/parse-save.ts";
import { printable } from "../core/printable.ts";
import { commentOf, optionOf } from "../core/ruleset.ts";
import type { DaemonStatus, ForwardStatus } from "../core/status.ts";
import { EXIT, KvmnatdError } from "../errors.ts";
import { readCounters } from "../host/iptables.ts";
import { readLiveStatus } from "../host/status-file.ts";
import type { Context } from "./context.ts";
import { printJson } from "./context.ts";
import { renderTable } from "./table.ts";

type Counted = ForwardStatus & { readonly packets: number | null; readonly bytes: number | null };

/** `kvmnatd status`: what the daemon keeps true, and why not where it does not. */
export async function status(context: Context): Promise<number> {
  const daemon = await readLiveStatus(context.paths.runtimeDir);
  if (daemon === undefined) {
    if (context.json) printJson(context, { running: false, forwards: [], problems: [] });
    else
      context.print(
        "kvmnatd does not run; start it with `systemctl start kvmnatd` (rules it made stay in force)",
      );
    return EXIT.notRunning;
  }
  const forwards = await withCounters(daemon);
  if (context.json) printJson(context, { running: true, ...daemon, forwards });
  else printStatus(context, daemon, forwards);
  const well = forwards.every((forward) => forward.state === "active");
  const calm = daemon.problems.every((problem) => problem.severity === "warning");
  return well && calm ? EXIT.ok : EXIT.degraded;
}

/** Counters come from the kernel, now; without the right to read them they are left out. */
async function withCounters(daemon: DaemonStatus): Promise<readonly Counted[]> {
  const counters = new Map<string, Counters>();
  for (const family of new Set(daemon.forwards.map((forward) => forward.family))) {
    for (const { rule, counters: own } of await countersOf(daemon, family)) {
      const owner = parseOwner(commentOf(rule) ?? "");
      const key = keyOf(
        family,
        owner?.name ?? "",
        optionOf(rule, "-p") ?? "",
        optionOf(rule, "--dport") ?? "",
      );
      const sum = counters.get(key) ?? { packets: 0, bytes: 0 };
      counters.set(key, { packets: sum.packets + own.packets, bytes: sum.bytes + own.bytes });
    }
  }
  return daemon.forwards.map((forward) => {
    const { family, guest, protocol, published } = forward;
    const own = counters.get(keyOf(family, ownerName(guest), protocol, published.replace("-", ":")));
    return { ...forward, packets: own?.packets ?? null, bytes: own?.bytes ?? null };
  });
}

async function countersOf(daemon: DaemonStatus, family: 4 | 6): Promise<ReturnType<typeof parseCounters>> {
  if (daemon.iptables === null) return [];
  try {
    const tool = { variant: daemon.iptables, infix: `-${daemon.iptables}` } as const;
    return parseCounters(await readCounters(tool, family), "KVMNATD-DNAT");
  } catch (error) {
    if (error instanceof KvmnatdError) return [];
    throw error;
  }
}

function keyOf(family: number, guest: string, protocol: string, ports: string): string {
  return [family, guest, protocol, ports].join(" ");
}

const HEAD = ["GUEST", "PUBLISHED", "TARGET", "STATE", "LEASE EXPIRES", "PACKETS/BYTES", "WHY"];

function printStatus(context: Context, daemon: DaemonStatus, forwards: readonly Counted[]): void {
  const { colors, print } = context;
  const active = forwards.filter((forward) => forward.state === "active").length;
  print(
    `kvmnatd ${daemon.version}, process ${daemon.pid}, since ${shortTime(daemon.startedAt)}; ` +
      `${active} of ${forwards.length} forwards active, iptables-${daemon.iptables ?? "?"}`,
  );
  for (const { severity, message } of daemon.problems)
    print(`${severity === "error" ? colors.red("error") : colors.yellow("warning")}: ${message}`);
  if (forwards.length > 0)
    print(
      `\n${renderTable(
        HEAD,
        forwards.map((forward) => toCells(context, forward)),
      )}`,
    );
}

function toCells({ colors }: Context, forward: Counted): readonly string[] {
  const paint = { active: colors.green, pending: colors.yellow, degraded: colors.red }[forward.state];
  const listen =
    forward.listen.length === 0 ? (forward.family === 6 ? "[::]" : "*") : forward.listen.join(",");
  const bracket = (ip: string): string => (ip.includes(":") ? `[${ip}]` : ip);
  const host = forward.listen.length === 1 ? bracket(listen) : listen;
  return [
    printable(forward.guest, 40),
    `${host}:${forward.published}/${forward.protocol}`,
    forward.address === null ? `?:${forward.target}` : `${bracket(forward.address)}:${forward.target}`,
    paint(forward.state),
    forward.leaseExpires === null ? "-" : shortTime(forward.leaseExpires),
    forward.packets === null ? "-" : `${forward.packets}/${forward.bytes}`,
    forward.why ?? "",
  ];
}

/** Local time, to the second: what journalctl prints beside it. */
function shortTime(iso: string): string {
  const date = new Date(iso);
  const two = (value: number): string => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
