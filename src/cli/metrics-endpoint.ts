import type { Endpoint } from "../config/values/endpoint.ts";
import { formatEndpoint } from "../config/values/endpoint.ts";
import type { PassReport } from "../status/metrics.ts";
import type { DaemonStatus } from "../status/status.ts";
import type { MetricsRegistry } from "../host/metrics/registry.ts";
import { createMetricsServer } from "../host/metrics/server.ts";
import type { Listening, MetricsServer, Page } from "../host/metrics/server.ts";
import type { Logger } from "../host-interface.ts";
import { withCounters } from "./counters.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";

/** Interval in which status and kernel are read at most once, however many scrapes come. */
const FRESH_MS = 1000;

/** The page that Prometheus scrapes. */
export interface MetricsEndpoint {
  /** Changes where it listens; undefined: nowhere. */
  listenAt(endpoint: Endpoint | undefined): void;
  onPass(report: PassReport): void;
  onStatus(status: DaemonStatus): void;
  /** Why the page cannot be served. */
  problems(): readonly Diagnostic[];
  stop(): Promise<void>;
}

/** @param onChange called when {@link MetricsEndpoint.problems} has changed */
export function createMetricsEndpoint(logger: Logger, onChange: () => void): MetricsEndpoint {
  let status: DaemonStatus | undefined;
  let last: PassReport | undefined;
  let problem: string | undefined;
  let loaded: Promise<Loaded> | undefined;

  function onState(state: Listening): void {
    if (state !== undefined && "at" in state) {
      const message = `metrics are served at http://${formatEndpoint(state.at)}/metrics`;
      logger.log({ level: "info", event: "metrics-listening", message });
    }
    const now = state !== undefined && "problem" in state ? state.problem : undefined;
    if (now === problem) return;
    problem = now;
    onChange();
  }

  async function makePage(registry: MetricsRegistry): Promise<Page> {
    if (status !== undefined) registry.setState(status, await withCounters(status));
    return { contentType: registry.contentType, text: await registry.render() };
  }

  return {
    listenAt: (endpoint) => {
      if (endpoint !== undefined) loaded ??= load(makePage, onState);
      void loaded?.then(({ server }) => server.listenAt(endpoint));
    },
    onPass: (report) => {
      const before = last;
      last = report;
      void loaded?.then(({ registry }) => registry.countPass(report, before));
    },
    onStatus: (now) => {
      status = now;
    },
    problems: () => (problem === undefined ? [] : [createWarning("metrics-unavailable", problem)]),
    stop: async () => (await loaded)?.server.stop(),
  };
}

interface Loaded {
  readonly registry: MetricsRegistry;
  readonly server: MetricsServer;
}

/** Loads prom-client, which costs 100 ms and 20 MB, only when the endpoint is configured. */
async function load(
  makePage: (registry: MetricsRegistry) => Promise<Page>,
  onState: (state: Listening) => void,
): Promise<Loaded> {
  const { createRegistry } = await import("../host/metrics/registry.ts");
  const registry = createRegistry();
  let page: Promise<Page> | undefined;
  const makeAtMostOnce = (): Promise<Page> =>
    (page ??= makePage(registry).finally(() => setTimeout(() => (page = undefined), FRESH_MS).unref()));
  return { registry, server: createMetricsServer(makeAtMostOnce, onState) };
}
