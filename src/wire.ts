import { readConfigFile } from "./host/config-file.ts";
import { listFlows, removeFlows } from "./host/conntrack.ts";
import { chooseIptables, otherIptables, readRules, restoreRules } from "./host/iptables.ts";
import { readLeaseFiles, readRunningDomains } from "./host/lease-files.ts";
import { readLibvirtTables, runNft } from "./host/nftables.ts";
import { askNeighbours } from "./host/neighbours.ts";
import { readLinks } from "./host/network.ts";
import { readListeners } from "./host/processes.ts";
import { isCron } from "./host/resync-timer.ts";
import { writeStatus } from "./host/status-file.ts";
import { readSysctl, writeSysctl } from "./host/sysctl.ts";
import type { Host } from "./ports.ts";

/** Where this installation keeps its files; every path that kvmnatd knows of its own. */
export interface Paths {
  readonly config: string;
  readonly dnsmasqDir: string;
  readonly runtimeDir: string;
}

export const DEFAULT_CONFIG = "/etc/kvmnatd.yaml";
export const DEFAULT_DNSMASQ_DIR = "/var/lib/libvirt/dnsmasq";
/** libvirt's state of its active networks: a file each, made when a network starts, deleted when it stops. */
export const LIBVIRT_NETWORKS = "/run/libvirt/network";
/** Its state of running domains, by driver: a file each, readable by root alone, but its name by everybody. */
const LIBVIRT_DOMAINS = ["qemu", "lxc", "libxl", "ch"].map((driver) => `/run/libvirt/${driver}`);

/** The real host. */
export function createHost(paths: Paths): Host {
  return {
    configPath: paths.config,
    dnsmasqDir: paths.dnsmasqDir,
    now: () => Date.now(),
    readConfig: () => readConfigFile(paths.config),
    readLeaseFiles: (bridges) => readLeaseFiles(paths.dnsmasqDir, bridges),
    readRunningDomains: () => readRunningDomains(LIBVIRT_DOMAINS),
    readLinks,
    askNeighbours,
    readListeners,
    chooseIptables,
    otherIptables,
    readRules,
    restoreRules,
    readLibvirtTables,
    runNft,
    listFlows,
    removeFlows,
    readSysctl,
    writeSysctl,
    writeStatus: (status) => writeStatus(paths.runtimeDir, status),
    isCron,
  };
}
