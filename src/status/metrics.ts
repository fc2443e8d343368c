import type { CountedForward } from "./counters.ts";
import type { DaemonStatus } from "./status.ts";

/** What Prometheus is told of one metric besides its values. */
export interface MetricSpec {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  readonly labels: readonly string[];
}

const FORWARD = ["guest", "protocol", "published", "listen", "target"];

/** What the daemon itself counts, from the moment at which the endpoint is turned on. */
export const COUNTED: readonly MetricSpec[] = [
  {
    name: "kvmnatd_passes_total",
    type: "counter",
    help: "Passes, by what asked for them first and by what they found.",
    labels: ["trigger", "outcome"],
  },
  { name: "kvmnatd_pass_duration_seconds", type: "histogram", help: "How long a pass takes.", labels: [] },
  {
    name: "kvmnatd_rules_added_total",
    type: "counter",
    help: "Rules that were put into the kernel.",
    labels: [],
  },
  {
    name: "kvmnatd_rules_removed_total",
    type: "counter",
    help: "Rules that were taken out of it.",
    labels: [],
  },
  {
    name: "kvmnatd_drift_healed_total",
    type: "counter",
    help: "Changes of rules, of those added and removed, that put right what another program had changed.",
    labels: [],
  },
  {
    name: "kvmnatd_config_errors_total",
    type: "counter",
    help: "Times that the config turned out to be unusable.",
    labels: [],
  },
  {
    name: "kvmnatd_lease_errors_total",
    type: "counter",
    help: "Times that a lease file, or a row of one, turned out to be unusable.",
    labels: [],
  },
];

/** What is read from state and kernel whenever somebody asks. */
export const READ: readonly MetricSpec[] = [
  { name: "kvmnatd_forwards", type: "gauge", help: "Published ports, by state.", labels: ["state"] },
  {
    name: "kvmnatd_problems",
    type: "gauge",
    help: "What an admin should act on, by kind; `kvmnatd status` has the text.",
    labels: ["code", "severity"],
  },
  {
    name: "kvmnatd_config_last_reload_successful",
    type: "gauge",
    help: "1 when the config on disk is the one in force, 0 when it has faults.",
    labels: [],
  },
  {
    name: "kvmnatd_forward_packets_total",
    type: "counter",
    help: "Packets that opened connections to a published port; the nat table sees no others.",
    labels: FORWARD,
  },
  {
    name: "kvmnatd_forward_bytes_total",
    type: "counter",
    help: "Bytes of the packets that opened connections to a published port.",
    labels: FORWARD,
  },
  { name: "kvmnatd_build_info", type: "gauge", help: "1, with the version as a label.", labels: ["version"] },
  {
    name: "kvmnatd_start_time_seconds",
    type: "gauge",
    help: "When the daemon started, in seconds since 1970.",
    labels: [],
  },
];

/** Upper bounds in seconds: a pass takes 20 ms on an idle host, a second with 10,000 rules on a busy one. */
export const PASS_BUCKETS: readonly number[] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** One value of a metric; added to it, observed by it or set, as its type has it. */
export interface Sample {
  /** Of {@link COUNTED} or {@link READ}. */
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly value: number;
}

/** What one pass did. */
export interface PassReport {
  readonly seconds: number;
  /** What asked for it, as in the log; in the order of asking. */
  readonly triggers: readonly string[];
  readonly outcome: "unchanged" | "changed" | "failed";
  readonly added: number;
  readonly removed: number;
  /** Changes among them that nothing but another program had made necessary. */
  readonly healed: number;
  /** Why config and lease files cannot be used as they are. */
  readonly configErrors: readonly string[];
  readonly leaseErrors: readonly string[];
}

/** @param before the report of the pass before it: an error that stays counts once */
export function countPass(report: PassReport, before: PassReport | undefined): readonly Sample[] {
  const { seconds, triggers, outcome, added, removed, healed } = report;
  const trigger = triggerKind(triggers[0] ?? "timer");
  return [
    { name: "kvmnatd_passes_total", labels: { trigger, outcome }, value: 1 },
    { name: "kvmnatd_pass_duration_seconds", value: seconds },
    { name: "kvmnatd_rules_added_total", value: added },
    { name: "kvmnatd_rules_removed_total", value: removed },
    { name: "kvmnatd_drift_healed_total", value: healed },
    { name: "kvmnatd_config_errors_total", value: countNew(report.configErrors, before?.configErrors) },
    { name: "kvmnatd_lease_errors_total", value: countNew(report.leaseErrors, before?.leaseErrors) },
  ];
}

function countNew(now: readonly string[], before: readonly string[] = []): number {
  const known = new Set(before);
  return now.filter((each) => !known.has(each)).length;
}

/** The log names files and programs; a label must have few values. */
const KINDS: ReadonlyMap<string, string> = new Map([
  ...["start", "config", "resync", "reload", "retry", "timer"].map((name) => [name, name] as const),
  ["SIGHUP", "reload"],
  ["ruleset changed", "rules"],
  ["address or link changed", "links"],
]);

function triggerKind(trigger: string): string {
  const known = KINDS.get(trigger);
  if (known !== undefined) return known;
  // libvirt's files, whose names are those of its networks.
  return trigger.startsWith("libvirt") || /\.(status|macs)$/.test(trigger) ? "leases" : "other";
}

/**
 * What there is to say of the daemon's state.
 * @param forwards its forwards; one without counters says nothing of packets
 */
export function readSamples(status: DaemonStatus, forwards: readonly CountedForward[]): readonly Sample[] {
  return [
    ...stateSamples(status),
    ...problemSamples(status),
    ...forwards.flatMap(forwardSamples),
    { name: "kvmnatd_build_info", labels: { version: status.version }, value: 1 },
    { name: "kvmnatd_start_time_seconds", value: Date.parse(status.startedAt) / 1000 },
  ];
}

function stateSamples({ forwards }: DaemonStatus): readonly Sample[] {
  return (["active", "pending", "degraded"] as const).map((state) => ({
    name: "kvmnatd_forwards",
    labels: { state },
    value: forwards.filter((forward) => forward.state === state).length,
  }));
}

function problemSamples({ problems }: DaemonStatus): readonly Sample[] {
  const byKind = Map.groupBy(problems, ({ code, severity }) => `${code} ${severity}`);
  const counts = [...byKind].map(([kind, alike]) => {
    const [code = "", severity = ""] = kind.split(" ");
    return { name: "kvmnatd_problems", labels: { code, severity }, value: alike.length };
  });
  const isInForce = !problems.some(({ code }) => code === "config-invalid");
  return [...counts, { name: "kvmnatd_config_last_reload_successful", value: isInForce ? 1 : 0 }];
}

function forwardSamples(forward: CountedForward): readonly Sample[] {
  const { guest, protocol, published, target, listen, family, packets, bytes } = forward;
  if (packets === null || bytes === null) return [];
  const any = family === 6 ? "::" : "0.0.0.0";
  const labels = { guest, protocol, published, listen: listen.join(",") || any, target };
  return [
    { name: "kvmnatd_forward_packets_total", labels, value: packets },
    { name: "kvmnatd_forward_bytes_total", labels, value: bytes },
  ];
}
