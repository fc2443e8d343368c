import type { Family } from "../net/address.ts";
import type { LogEntry } from "../log/audit-entries.ts";
import { NOTHING_DESIRED } from "../rules/ruleset.ts";
import type { Desired, Jump } from "../rules/ruleset.ts";
import { sysctlName } from "../rules/sysctl-name.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host } from "../host-interface.ts";
import type { View } from "./observe.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createError, createWarning } from "../diagnostic.ts";

/** A sysctl that needs another value. */
export interface SysctlChange {
  /** Relative to /proc/sys. */
  readonly path: string;
  readonly value: string;
  readonly why: string;
}

/**
 * The value of route_localnet on a bridge that kvmnatd opened for 127.0.0.1. The kernel treats every value but 0 as on,
 * and an administrator writes 1.
 */
const OPENED_BY_US = "2";

/**
 * @returns what a pass would set, in order
 * @throws KvmnatdError when a sysctl cannot be read
 */
export async function findSysctls(host: Host, view: View): Promise<readonly SysctlChange[]> {
  return [
    ...(await findClosings(host, findInterfacesWithAddress(view), desiredOf(view))),
    ...(await findOpenings(host, view)),
  ];
}

/**
 * @param overridden guards that another program keeps from their position
 * @returns the sysctls that are 0 and that the forwards need: ip_forward and, with reach.loopback, route_localnet
 */
async function findOpenings(
  host: Host,
  view: View,
  overridden: readonly Jump[] = [],
): Promise<readonly SysctlChange[]> {
  const wanted: SysctlChange[] = [];
  if (isActive(view, 4))
    wanted.push({ path: "net/ipv4/ip_forward", value: "1", why: "without it nothing is forwarded" });
  const withoutGuard = listGuardedBridges(overridden);
  for (const bridge of listGuardedBridges(desiredOf(view).jumps).filter(
    (each) => !withoutGuard.includes(each),
  ))
    wanted.push({ path: routeLocalnet(bridge), value: OPENED_BY_US, why: "for reach.loopback, guarded" });
  const values = await Promise.all(wanted.map(({ path }) => host.readSysctl(path)));
  return wanted.filter((_, index) => values[index] === "0");
}

/**
 * Finds bridges that kvmnatd opened for 127.0.0.1 and on which the desired ruleset has no guard. Without the guard,
 * guests reach the host's own 127.0.0.1.
 * @param bridges to check
 */
export async function findClosings(
  host: Host,
  bridges: Iterable<string>,
  desired: Desired,
): Promise<readonly SysctlChange[]> {
  const guarded = new Set(listGuardedBridges(desired.jumps));
  const paths = [...bridges].filter((bridge) => !guarded.has(bridge)).map(routeLocalnet);
  const values = await Promise.all(paths.map((path) => host.readSysctl(path)));
  return paths
    .filter((_, index) => values[index] === OPENED_BY_US)
    .map((path) => ({ path, value: "0", why: "127.0.0.1 is published no more" }));
}

/** @returns interfaces that can route: the tap of each guest has no address, so the kernel routes nothing on it */
function findInterfacesWithAddress({ networks, links }: View): ReadonlySet<string> {
  const withAddress = [...links.addresses].flatMap(([name, own]) => (own.length === 0 ? [] : [name]));
  return new Set([...networks.map(({ bridge }) => bridge), ...withAddress]);
}

function desiredOf(view: View): Desired {
  return view.families.find(({ family }) => family === 4)?.desired ?? NOTHING_DESIRED;
}

function listGuardedBridges(jumps: readonly Jump[]): readonly string[] {
  return jumps.flatMap(({ mustPrecedeAcceptsFor: bridge }) => bridge ?? []);
}

function routeLocalnet(bridge: string): string {
  return `net/ipv4/conf/${bridge}/route_localnet`;
}

/** What was written, for the log, and the error that prevented the rest. */
export interface SysctlsWritten {
  readonly entries: readonly LogEntry[];
  /** The kernel or the sandbox rejected a change, or a sysctl cannot be read. */
  readonly error: KvmnatdError | undefined;
}

/**
 * Writes changes until one fails.
 * @param find reads which changes are needed
 */
export async function writeSysctls(
  host: Host,
  find: () => Promise<readonly SysctlChange[]>,
): Promise<SysctlsWritten> {
  const entries: LogEntry[] = [];
  try {
    for (const change of await find()) {
      await host.writeSysctl(change.path, change.value);
      const before = change.value === "0" ? OPENED_BY_US : "0";
      const message = `${sysctlName(change.path)} was ${before}: set to ${change.value}, ${change.why}`;
      entries.push({ level: "info", event: "sysctl-set", message });
    }
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    return { entries, error };
  }
  return { entries, error: undefined };
}

/** Sets route_localnet to 0 on bridges whose guard the pass will remove. After an error the pass must keep the guards. */
export async function closeLoopback(host: Host, view: View): Promise<SysctlsWritten> {
  return writeSysctls(host, () => findClosings(host, findInterfacesWithAddress(view), desiredOf(view)));
}

export interface SysctlOutcome {
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Diagnostic[];
  /** Whether a sysctl could not be read or set. A sysctl that kvmnatd never sets is a problem, but no failure to retry. */
  readonly failed: boolean;
}

/**
 * Sets route_localnet to 0 on bridges with an overridden guard, sets the sysctls that the forwards need, and checks those
 * that kvmnatd never sets.
 * @param isInPlace whether the rules are in place: a host must not become a router without them
 * @param overridden guards that another program keeps from their position
 */
export async function setSysctls(
  host: Host,
  view: View,
  isInPlace: boolean,
  overridden: readonly Jump[],
): Promise<SysctlOutcome> {
  const { entries, error } = await writeSysctls(host, async () => [
    ...(await findClosings(host, listGuardedBridges(overridden), NOTHING_DESIRED)),
    ...(isInPlace ? await findOpenings(host, view, overridden) : []),
  ]);
  if (error !== undefined) return { entries, problems: [error.toDiagnostic()], failed: true };
  return { entries, ...(await checkForeignSysctls(host, view)) };
}

/** Checks the sysctls that kvmnatd needs but never sets. */
async function checkForeignSysctls(host: Host, view: View): Promise<Omit<SysctlOutcome, "entries">> {
  const problems: Diagnostic[] = [];
  try {
    problems.push(...(await checkIpv6Forwarding(host, view)));
    problems.push(...(await findBridgeNf(host, view)));
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    return { problems: [...problems, error.toDiagnostic()], failed: true };
  }
  return { problems, failed: false };
}

async function checkIpv6Forwarding(host: Host, view: View): Promise<readonly Diagnostic[]> {
  if (!isActive(view, 6) || (await host.readSysctl("net/ipv6/conf/all/forwarding")) !== "0") return [];
  const message =
    "net.ipv6.conf.all.forwarding is 0: IPv6 forwards do not pass; libvirt sets it when a network with IPv6 starts";
  return [createError("ipv6-forwarding", message)];
}

/** Docker and Kubernetes set and need it, so kvmnatd does not change it. Without br_netfilter it does not exist. */
async function findBridgeNf(host: Host, view: View): Promise<readonly Diagnostic[]> {
  if (!view.snapshot.portMap.reach.guests) return [];
  const found: Diagnostic[] = [];
  for (const [family, name] of BRIDGE_NF) {
    if (!isActive(view, family) || (await host.readSysctl(`net/bridge/${name}`)) !== "1") continue;
    const message = `net.bridge.${name} is 1: a guest does not reach its own published port; all others reach it`;
    found.push(createWarning("bridge-nf", message));
  }
  return found;
}

const BRIDGE_NF = [
  [4, "bridge-nf-call-iptables"],
  [6, "bridge-nf-call-ip6tables"],
] as const;

function isActive(view: View, family: Family): boolean {
  return view.resolution.forwards.some((each) => each.family === family && each.target !== undefined);
}
