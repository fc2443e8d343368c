import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { COUNTED, PASS_BUCKETS, READ } from "../../status/metrics.ts";
import type { MetricSpec, Sample } from "../../status/metrics.ts";

/** All metrics with their values. */
export interface MetricsRegistry {
  readonly contentType: string;
  /** Counts on. */
  add(samples: readonly Sample[]): void;
  /** Puts these values in the place of all that were read before: what is gone has no series any more. */
  replaceRead(samples: readonly Sample[]): void;
  /** Prometheus' text format. */
  render(): Promise<string>;
}

export function createRegistry(): MetricsRegistry {
  const registry = new Registry();
  const counted = new Map(COUNTED.map((spec) => [spec.name, create(spec, registry)]));
  const read = new Map(READ.map((spec) => [spec.name, create(spec, registry)]));
  return {
    contentType: registry.contentType,
    add: (samples) => {
      for (const sample of samples) take(counted, sample);
    },
    replaceRead: (samples) => {
      for (const metric of read.values()) metric.reset();
      for (const sample of samples) take(read, sample);
    },
    render: () => registry.metrics(),
  };
}

type Metric = Counter | Gauge | Histogram;

function create({ name, type, help, labels }: MetricSpec, registry: Registry): Metric {
  const config = { name, help, labelNames: [...labels], registers: [registry] };
  switch (type) {
    case "counter":
      return new Counter(config);
    case "gauge":
      return new Gauge(config);
    case "histogram":
      return new Histogram({ ...config, buckets: [...PASS_BUCKETS] });
  }
}

function take(metrics: ReadonlyMap<string, Metric>, { name, labels = {}, value }: Sample): void {
  const metric = metrics.get(name);
  if (metric === undefined) throw new Error(`no metric is called ${name}`);
  if (metric instanceof Histogram) metric.observe(labels, value);
  else metric.inc(labels, value);
}
