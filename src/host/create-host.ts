import { createFollowCommand } from "./exec/follow-command.ts";
import { createLauncher } from "./exec/launcher.ts";
import { readConfigFile } from "./files/config-file.ts";
import { readLeaseFiles, readRunningDomains } from "./files/lease-files.ts";
import { createFolderLock } from "./files/lock.ts";
import { writeStatus } from "./files/status-file.ts";
import { listFlows, removeFlows } from "./netfilter/conntrack.ts";
import { chooseIptables, otherIptables, readRules, restoreRules } from "./netfilter/iptables.ts";
import { readLibvirtTables, runNft } from "./netfilter/nftables.ts";
import { createRuleMonitor } from "./netfilter/rule-monitor.ts";
import type { RuleWatcher } from "./netfilter/rule-monitor.ts";
import { readLinks, watchLinks } from "./network/links.ts";
import type { LinkWatcher } from "./network/links.ts";
import { readListeners } from "./network/listening-sockets.ts";
import { createNeighbours } from "./network/neighbours.ts";
import { readSysctl, writeSysctl } from "./network/sysctl.ts";
import { isCron } from "./cron.ts";
import { sleep } from "./sleep.ts";
import type { Host } from "../host-interface.ts";
import type { Paths } from "../paths.ts";

/** Folders of libvirt's drivers with a file for each running domain; root can read the files, every user their names. */
const LIBVIRT_DOMAINS = ["qemu", "lxc", "libxl", "ch"].map((driver) => `/run/libvirt/${driver}`);

/** The host that this process runs on. It owns everything that outlives a call: programs, locks, what it has seen. */
export interface LocalHost extends Host {
  /** Locks the runtime folder until this process ends. @returns false when another process holds the lock */
  lockRuntimeDir(): Promise<boolean>;
  watchLinks(watcher: LinkWatcher, signal: AbortSignal): Promise<void>;
  /** Changes by this host's own `restoreRules` and `runNft` are not reported. */
  watchRules(watcher: RuleWatcher, signal: AbortSignal): Promise<void>;
}

export function createHost(paths: Paths): LocalHost {
  const launcher = createLauncher();
  const followCommand = createFollowCommand();
  const lock = createFolderLock();
  const rules = createRuleMonitor(followCommand);
  return {
    configPath: paths.config,
    dnsmasqDir: paths.dnsmasqDir,
    now: () => Date.now(),
    monotonicMs: () => performance.now(),
    sleep,
    readConfig: () => readConfigFile(paths.config),
    readLeaseFiles: (bridges) => readLeaseFiles(paths.dnsmasqDir, bridges),
    readRunningDomains: () => readRunningDomains(LIBVIRT_DOMAINS),
    readLinks: () => readLinks(launcher),
    ...createNeighbours(launcher),
    readListeners,
    chooseIptables,
    otherIptables,
    readRules: (tool, family) => readRules(launcher, tool, family),
    restoreRules: (tool, family, { input, ruleCount }) => {
      const restore = (): Promise<void> => restoreRules(launcher, tool, family, input);
      // The kernel reports no events of iptables-legacy.
      return tool.variant === "legacy" ? restore() : rules.expecting(ruleCount, restore);
    },
    readLibvirtTables: () => readLibvirtTables(launcher),
    runNft: ({ input, ruleCount }) => rules.expecting(ruleCount, () => runNft(launcher, input)),
    listFlows: (family) => listFlows(launcher, family),
    removeFlows: (stale, family) => removeFlows(launcher, stale, family),
    readSysctl,
    writeSysctl,
    writeStatus: (status) => writeStatus(paths.runtimeDir, status),
    isCron,
    lockRuntimeDir: () => lock.acquire(paths.runtimeDir),
    watchLinks: (watcher, signal) => watchLinks(followCommand, watcher, signal),
    watchRules: (watcher, signal) => rules.watch(watcher, signal),
  };
}
