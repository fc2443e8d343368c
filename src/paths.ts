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
