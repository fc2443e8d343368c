import type { Family, HostAddresses } from "./net/address.ts";
import type { ProbeResults, NeighbourProbe } from "./identity/lookup.ts";
import type { StaleFlows } from "./conntrack/stale-flows.ts";
import type { Diagnostic } from "./diagnostic.ts";
import type { DomainMacs, Lease } from "./leases/lease.ts";
import type { Subnet } from "./leases/network.ts";
import type { LogEntry } from "./log/audit-entries.ts";
import type { LeaseFault } from "./leases/parse-lease-files.ts";
import type { Listener } from "./status/ports-in-use.ts";
import type { RestoreScript } from "./rules/restore.ts";
import type { Actual, LibvirtTable, Variant } from "./rules/ruleset.ts";
import type { DaemonStatus } from "./status/status.ts";
import type { LogLevel } from "./config/port-map.ts";

export interface ConfigFile {
  readonly text: string;
  /** Last change, epoch ms. */
  readonly changedAtMs: number;
  /** Set when a user other than root could have written it. */
  readonly untrusted: Diagnostic<string> | undefined;
}

/** One of iptables' two variants. Both have programs of the same kind, which write into different parts of the kernel. */
export interface Iptables {
  readonly variant: Variant;
  /** Between `iptables` and `-save`: empty for what `iptables` is on this host. */
  readonly infix: "" | "-nft" | "-legacy";
}

/** What libvirt's files say of one bridge; undefined: nothing readable at this moment. */
export interface BridgeFiles {
  readonly bridge: string;
  readonly leases: readonly Lease[] | undefined;
  readonly domains: readonly DomainMacs[] | undefined;
  readonly diagnostics: readonly Diagnostic<LeaseFault>[];
}

export interface LeaseFiles {
  readonly bridges: readonly BridgeFiles[];
  /** `read`: libvirt has no network on any other bridge. Otherwise the list of its networks is unknown. */
  readonly folder: "read" | "missing" | "unreadable";
  /** Problems of the folder itself. */
  readonly diagnostics: readonly Diagnostic<LeaseFault>[];
}

export interface Links {
  readonly addresses: HostAddresses;
  /** The kernel's number of each interface that is up. */
  readonly indexes: ReadonlyMap<string, number>;
  /** Subnets of each interface that is up. */
  readonly subnets: ReadonlyMap<string, readonly Subnet[]>;
}

export interface Logger {
  log(entry: LogEntry): void;
  setLevel(level: LogLevel): void;
  /** Why lines do not reach their reader. */
  problem(): Diagnostic | undefined;
}

/** All that a pass needs from the world outside; every call may throw a KvmnatdError. */
export interface Host {
  readonly configPath: string;
  /** libvirt's dnsmasq folder. */
  readonly dnsmasqDir: string;
  /** Epoch ms. An administrator or NTP may set this clock back or forward. */
  now(): number;
  /** Milliseconds since an arbitrary start; never goes back. For durations and deadlines, never for dates. */
  monotonicMs(): number;
  /** Sleeps, at most 2^31-1 ms. @param signal ends the sleep when it is aborted, without an error */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  readConfig(): Promise<ConfigFile>;
  readLeaseFiles(bridges: readonly string[] | undefined): Promise<LeaseFiles>;
  /** Domains that libvirt runs; undefined where it does not say. */
  readRunningDomains(): Promise<ReadonlySet<string> | undefined>;
  readLinks(): Promise<Links>;
  probeNeighbours(probes: readonly NeighbourProbe[]): Promise<ProbeResults>;
  readListeners(): Promise<readonly Listener[]>;
  chooseIptables(setting: Variant | "auto"): Promise<Iptables>;
  /** @param known variants that kvmnatd has used: only root can find out whether there are others */
  otherIptables(used: Iptables, family: Family, known: ReadonlySet<Variant>): Promise<Iptables | undefined>;
  readRules(tool: Iptables, family: Family): Promise<Actual>;
  readLibvirtTables(): Promise<ReadonlyMap<Family, LibvirtTable>>;
  runNft(script: RestoreScript): Promise<void>;
  restoreRules(tool: Iptables, family: Family, script: RestoreScript): Promise<void>;
  listFlows(family: Family): Promise<readonly string[]>;
  removeFlows(stale: StaleFlows, family: Family): Promise<number>;
  readSysctl(path: string): Promise<string | undefined>;
  writeSysctl(path: string, value: string): Promise<void>;
  writeStatus(status: DaemonStatus): Promise<void>;
  isCron(expression: string): boolean;
}
