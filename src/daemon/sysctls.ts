import type { Family } from "../core/address.ts";
import type { LogEntry } from "../core/narrate.ts";
import { optionOf } from "../core/ruleset.ts";
import type { Problem } from "../core/status.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host } from "../ports.ts";
import { routeLocalnet } from "./kernel.ts";
import type { View } from "./observe.ts";

/** A sysctl that has to be 1 and is 0. */
export interface SysctlChange {
  /** Below /proc/sys. */
  readonly path: string;
  readonly why: string;
}

/**
 * Routing and, opt-in, 127.0.0.1.
 * @throws KvmnatdError when they cannot be read
 */
export async function findSysctls(host: Host, view: View): Promise<readonly SysctlChange[]> {
  const wanted: SysctlChange[] = [];
  if (isActive(view, 4)) wanted.push({ path: "net/ipv4/ip_forward", why: "without it nothing is forwarded" });
  const ipv4 = view.families.find((each) => each.family === 4);
  for (const jump of ipv4?.desired.jumps ?? []) {
    const bridge = jump.table === "raw" ? optionOf(jump.rule, "-i") : undefined;
    if (bridge !== undefined)
      wanted.push({ path: routeLocalnet(bridge), why: "for reach.loopback, guarded" });
  }
  const values = await Promise.all(wanted.map(({ path }) => host.readSysctl(path)));
  return wanted.filter((_, index) => values[index] === "0");
}

/** `net.ipv4.ip_forward`, as sysctl(8) names it; with slashes where a bridge has a dot in its name. */
export function nameOf({ path }: SysctlChange): string {
  return path.includes(".") ? path : path.replaceAll("/", ".");
}

export interface SysctlOutcome {
  readonly entries: readonly LogEntry[];
  readonly problems: readonly Problem[];
}

/** @param isInPlace whether the rules that belong to them are: a host must not become a router without */
export async function setSysctls(host: Host, view: View, isInPlace: boolean): Promise<SysctlOutcome> {
  const entries: LogEntry[] = [];
  const problems: Problem[] = [];
  try {
    for (const change of isInPlace ? await findSysctls(host, view) : []) {
      await host.writeSysctl(change.path, "1");
      const message = `${nameOf(change)} was 0: set to 1, ${change.why}`;
      entries.push({ level: "info", event: "sysctl", message });
    }
    if (isActive(view, 6) && (await host.readSysctl("net/ipv6/conf/all/forwarding")) === "0")
      problems.push({
        code: "ipv6-forwarding",
        severity: "error",
        message:
          "net.ipv6.conf.all.forwarding is 0: IPv6 forwards do not pass; libvirt sets it when a network with IPv6 starts",
      });
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    problems.push({ code: error.code, message: error.message, severity: "error" });
  }
  return { entries, problems };
}

function isActive(view: View, family: Family): boolean {
  return view.resolution.forwards.some((each) => each.family === family && each.target !== undefined);
}
