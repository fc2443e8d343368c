import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { CountedForward } from "../../status/counters.ts";
import { countNew, countStates, FORWARD_LABELS, forwardLabels, triggerKind } from "../../status/metrics.ts";
import type { PassReport } from "../../status/metrics.ts";
import type { DaemonStatus } from "../../status/status.ts";

/** All metrics with their values. */
export interface MetricsRegistry {
  readonly contentType: string;
  /** @param before the report of the pass before: an error that stays counts once */
  countPass(report: PassReport, before: PassReport | undefined): void;
  /** Replaces all values that come from the status and the kernel: a forward that is gone loses its series. */
  setState(status: DaemonStatus, forwards: readonly CountedForward[]): void;
  /** Prometheus' text format. */
  render(): Promise<string>;
}

export function createRegistry(): MetricsRegistry {
  const registry = new Registry();
  return {
    contentType: registry.contentType,
    countPass: createPassMetrics([registry]),
    setState: createStateMetrics([registry]),
    render: () => registry.metrics(),
  };
}

/** Maximum seconds of each bucket: a pass takes 20 ms on an idle host, a second with 10,000 rules on a busy one. */
const PASS_BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** Metrics that the daemon counts itself, from the moment at which the endpoint is turned on. */
function createPassMetrics(registers: Registry[]): MetricsRegistry["countPass"] {
  const counter = (name: string, help: string): Counter => new Counter({ name, help, registers });
  const passes = new Counter({
    name: "kvmnatd_passes_total",
    help: "Passes, by their first trigger and their outcome.",
    labelNames: ["trigger", "outcome"],
    registers,
  });
  const duration = new Histogram({
    name: "kvmnatd_pass_duration_seconds",
    help: "Duration of a pass.",
    buckets: PASS_BUCKETS,
    registers,
  });
  const added = counter("kvmnatd_rules_added_total", "Rules and chains added to the kernel.");
  const removed = counter("kvmnatd_rules_removed_total", "Rules and chains removed from the kernel.");
  const healed = counter(
    "kvmnatd_drift_healed_total",
    "Rules and chains, of those added and removed, that repaired changes of another program.",
  );
  const configErrors = counter("kvmnatd_config_errors_total", "Times that kvmnatd rejected the config.");
  const leaseErrors = counter(
    "kvmnatd_lease_errors_total",
    "Times that kvmnatd rejected a lease file, or a row in it.",
  );
  return (report, before) => {
    passes.inc({ trigger: triggerKind(report.triggers), outcome: report.outcome });
    duration.observe(report.seconds);
    added.inc(report.added);
    removed.inc(report.removed);
    healed.inc(report.healed);
    configErrors.inc(countNew(report.configErrors, before?.configErrors));
    leaseErrors.inc(countNew(report.leaseErrors, before?.leaseErrors));
  };
}

/** Metrics that are read from the status and the kernel for each scrape. */
function createStateMetrics(registers: Registry[]): MetricsRegistry["setState"] {
  const setters = [
    createForwardStates(registers),
    createProblems(registers),
    createTraffic(registers),
    createDaemonInfo(registers),
  ];
  return (status, forwards) => {
    for (const set of setters) set(status, forwards);
  };
}

type SetState = MetricsRegistry["setState"];

function createForwardStates(registers: Registry[]): SetState {
  const states = new Gauge({
    name: "kvmnatd_forwards",
    help: "Published ports, by state.",
    labelNames: ["state"],
    registers,
  });
  return (status) => {
    for (const [state, count] of countStates(status)) states.set({ state }, count);
  };
}

function createProblems(registers: Registry[]): SetState {
  const problems = new Gauge({
    name: "kvmnatd_problems",
    help: "Problems that need an admin, by kind; `kvmnatd status` has the text.",
    labelNames: ["code", "severity"],
    registers,
  });
  const isReloaded = new Gauge({
    name: "kvmnatd_config_last_reload_successful",
    help: "1 if the config on disk is in force, 0 if kvmnatd rejected it.",
    registers,
  });
  return (status) => {
    problems.reset();
    for (const { code, severity } of status.problems) problems.inc({ code, severity });
    isReloaded.set(status.problems.some(({ code }) => code === "config-invalid") ? 0 : 1);
  };
}

function createTraffic(registers: Registry[]): SetState {
  const packets = new Counter({
    name: "kvmnatd_forward_packets_total",
    help: "Packets that opened connections to a published port; the nat table sees no others.",
    labelNames: FORWARD_LABELS,
    registers,
  });
  const bytes = new Counter({
    name: "kvmnatd_forward_bytes_total",
    help: "Bytes of the packets that opened connections to a published port.",
    labelNames: FORWARD_LABELS,
    registers,
  });
  return (_status, forwards) => {
    packets.reset();
    bytes.reset();
    for (const forward of forwards) {
      // Not known where the rules cannot be read.
      if (forward.packets === null || forward.bytes === null) continue;
      packets.inc(forwardLabels(forward), forward.packets);
      bytes.inc(forwardLabels(forward), forward.bytes);
    }
  };
}

function createDaemonInfo(registers: Registry[]): SetState {
  const build = new Gauge({
    name: "kvmnatd_build_info",
    help: "1, with the version as a label.",
    labelNames: ["version"],
    registers,
  });
  const start = new Gauge({
    name: "kvmnatd_start_time_seconds",
    help: "When the daemon started, in seconds since 1970.",
    registers,
  });
  return ({ version, startedAt }) => {
    build.reset();
    build.set({ version }, 1);
    start.set(Date.parse(startedAt) / 1000);
  };
}
