import type { DaemonStatus, ForwardStatus } from "../../src/status/status.ts";

/** The status of web's forward 1122 -> 22/tcp, active. */
export function forwardStatus(more: Partial<ForwardStatus> = {}): ForwardStatus {
  return {
    guest: "web",
    protocol: "tcp",
    published: "1122",
    target: "22",
    listen: [],
    family: 4,
    state: "active",
    address: "192.168.122.11",
    mac: null,
    why: null,
    leaseExpires: null,
    ...more,
  };
}

/** The status of a daemon without forwards and problems, after its first pass. */
export function daemonStatus(more: Partial<DaemonStatus> = {}): DaemonStatus {
  return {
    schema: 1,
    version: "1.2.3",
    pid: 1,
    startTicks: "1",
    config: "/etc/kvmnatd.yaml",
    startedAt: "2026-01-02T03:04:05.000Z",
    updatedAt: "2026-01-02T03:04:06.000Z",
    pass: 1,
    iptables: "nft",
    problems: [],
    forwards: [],
    ...more,
  };
}
