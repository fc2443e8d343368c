import { readConfigFile } from "./files/config-file.ts";
import { listFlows, removeFlows } from "./netfilter/conntrack.ts";
import { chooseIptables, otherIptables, readRules, restoreRules } from "./netfilter/iptables.ts";
import { readLeaseFiles, readRunningDomains } from "./files/lease-files.ts";
import { readLibvirtTables, runNft } from "./netfilter/nftables.ts";
import { probeNeighbours } from "./network/neighbours.ts";
import { readLinks } from "./network/links.ts";
import { readListeners } from "./network/listening-sockets.ts";
import { isCron } from "./cron.ts";
import { writeStatus } from "./files/status-file.ts";
import { readSysctl, writeSysctl } from "./network/sysctl.ts";
import type { Host } from "../host-interface.ts";
import type { Paths } from "../paths.ts";

/** Its state of running domains, by driver: a file each, readable by root alone, but its name by everybody. */
const LIBVIRT_DOMAINS = ["qemu", "lxc", "libxl", "ch"].map((driver) => `/run/libvirt/${driver}`);

/** The real host. */
export function createHost(paths: Paths): Host {
  return {
    configPath: paths.config,
    dnsmasqDir: paths.dnsmasqDir,
    now: () => Date.now(),
    monotonicMs: () => performance.now(),
    readConfig: () => readConfigFile(paths.config),
    readLeaseFiles: (bridges) => readLeaseFiles(paths.dnsmasqDir, bridges),
    readRunningDomains: () => readRunningDomains(LIBVIRT_DOMAINS),
    readLinks,
    probeNeighbours: probeNeighbours,
    readListeners,
    chooseIptables,
    otherIptables,
    readRules,
    restoreRules: (tool, family, { input }) => restoreRules(tool, family, input),
    readLibvirtTables,
    runNft: ({ input }) => runNft(input),
    listFlows,
    removeFlows,
    readSysctl,
    writeSysctl,
    writeStatus: (status) => writeStatus(paths.runtimeDir, status),
    isCron,
  };
}
