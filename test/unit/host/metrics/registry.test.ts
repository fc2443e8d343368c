import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createRegistry } from "../../../../src/host/metrics/registry.ts";
import type { CountedForward } from "../../../../src/status/counters.ts";
import type { PassReport } from "../../../../src/status/metrics.ts";
import { daemonStatus, forwardStatus } from "../../../support/status-values.ts";

const DOCS = join(import.meta.dirname, "../../../../docs");

const forward = (more: Partial<CountedForward> = {}): CountedForward => ({
  ...forwardStatus(),
  packets: 1,
  bytes: 60,
  ...more,
});

const report = (more: Partial<PassReport> = {}): PassReport => ({
  seconds: 0.03,
  triggers: ["timer"],
  outcome: "unchanged",
  added: 0,
  removed: 0,
  healed: 0,
  configErrors: [],
  leaseErrors: [],
  ...more,
});

/** A page on which every metric has a series. */
async function renderAll(): Promise<string> {
  const registry = createRegistry();
  registry.countPass(report(), undefined);
  const problems = [{ code: "config-invalid", message: "x", severity: "error" }] as const;
  registry.setState(daemonStatus({ problems, forwards: [forward()] }), [forward({ guest: 'a"b\\c' })]);
  return registry.render();
}

interface Metric {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly labels: readonly string[];
}

/** The metrics of a page, each with the labels of its series. */
function parseMetrics(page: string): readonly Metric[] {
  return Array.from(page.matchAll(/^# TYPE (\w+) (\w+)$/gm), ([, name = "", type = ""]) => {
    const series = new RegExp(`^${name}(?:_count)?(?:\\{(.*)\\})? `, "m").exec(page)?.[1] ?? "";
    const help = new RegExp(`^# HELP ${name} (.*)$`, "m").exec(page)?.[1] ?? "";
    return { name, type, help, labels: Array.from(series.matchAll(/(\w+)="/g), ([, label = ""]) => label) };
  });
}

const PAGE = await renderAll();
const METRICS = parseMetrics(PAGE);

describe("the registry", () => {
  it("has a series of every metric, and escapes names", () => {
    expect(METRICS).toHaveLength(14);
    for (const { name } of METRICS) expect(PAGE).toMatch(new RegExp(`^${name}(_count)?({| )`, "m"));
    expect(PAGE).toContain('kvmnatd_forward_packets_total{guest="a\\"b\\\\c",');
  });

  it.each(METRICS)("explains $name in a sentence: $help", ({ help }) => {
    expect(help).toMatch(/^[A-Z0-9][^.]*\.$/);
    expect(help.split(" ").length).toBeGreaterThanOrEqual(4);
    expect(help.split(" ").length).toBeLessThanOrEqual(25);
    // The description of another metric, copied.
    expect(METRICS.filter((each) => each.help === help)).toHaveLength(1);
  });

  it("removes the series of removed forwards and keeps the count of passes", async () => {
    const registry = createRegistry();
    for (let index = 0; index < 1000; index += 1) {
      registry.countPass(report(), undefined);
      registry.setState(daemonStatus({ version: `${index}` }), [forward({ guest: `g${index}` })]);
    }
    const text = await registry.render();
    expect(text.match(/guest=/g)).toHaveLength(2);
    expect(text.match(/^kvmnatd_build_info\{/gm)).toHaveLength(1);
    expect(text).toContain('kvmnatd_passes_total{trigger="timer",outcome="unchanged"} 1000');
  });

  it("counts an error once while it stays", async () => {
    const registry = createRegistry();
    const faulty = report({ configErrors: ["a"], leaseErrors: ["x", "y"] });
    registry.countPass(faulty, undefined);
    registry.countPass(faulty, faulty);
    const text = await registry.render();
    expect(text).toMatch(/^kvmnatd_config_errors_total 1$/m);
    expect(text).toMatch(/^kvmnatd_lease_errors_total 2$/m);
  });

  it("has a series for every state of forwards", () => {
    expect(PAGE.match(/^kvmnatd_forwards\{.*$/gm)).toEqual([
      'kvmnatd_forwards{state="active"} 1',
      'kvmnatd_forwards{state="pending"} 0',
      'kvmnatd_forwards{state="degraded"} 0',
    ]);
  });

  it("has no series for counters that could not be read", async () => {
    const registry = createRegistry();
    registry.setState(daemonStatus(), [forward({ packets: null, bytes: null })]);
    expect(await registry.render()).not.toMatch(/^kvmnatd_forward_/m);
  });
});

describe("the documentation", () => {
  const doc = readFileSync(join(DOCS, "metrics.md"), "utf8");
  const dashboard = JSON.parse(readFileSync(join(DOCS, "grafana-dashboard.json"), "utf8")) as Dashboard;
  const alerts = readFileSync(join(DOCS, "alerts.yaml"), "utf8");
  const known = METRICS.flatMap(({ name, type }) =>
    type === "histogram" ? [`${name}_bucket`, `${name}_count`, `${name}_sum`] : [name],
  );
  const namesIn = (text: string): readonly string[] => text.match(/\bkvmnatd_\w+/g) ?? [];

  it.each(METRICS)("of metrics.md has $name with its type and labels", ({ name, type, labels }) => {
    const row = doc.split("\n").find((line) => line.startsWith(`| \`${name}\``));
    const [, , documented = "", labelled = ""] = (row ?? "").split("|").map((cell) => cell.trim());
    expect([documented, labelled]).toEqual([type, labels.map((label) => `\`${label}\``).join(", ")]);
  });

  it("of metrics.md has no other metrics", () => {
    const rows = doc.match(/^\| `(kvmnatd_\w+)`/gm) ?? [];
    expect(rows).toHaveLength(METRICS.length);
  });

  it("of the dashboard uses these metrics, from a data source that is chosen at its import", () => {
    const targets = dashboard.panels.flatMap((panel) => panel.targets);
    expect(targets.length).toBeGreaterThan(10);
    for (const { expr } of targets) {
      expect(namesIn(expr).length).toBeGreaterThan(0);
      expect(known).toEqual(expect.arrayContaining([...namesIn(expr)]));
    }
    expect(dashboard.schemaVersion).toBeGreaterThan(30);
    for (const { datasource } of [...dashboard.panels, ...targets])
      expect(datasource.uid).toBe("${datasource}");
    expect(dashboard.templating.list[0]).toMatchObject({ name: "datasource", type: "datasource" });
  });

  it("of the alerts uses these metrics", () => {
    expect(known).toEqual(expect.arrayContaining([...namesIn(alerts)]));
  });
});

interface Dashboard {
  readonly schemaVersion: number;
  readonly templating: { readonly list: readonly unknown[] };
  readonly panels: readonly {
    readonly datasource: { readonly uid: string };
    readonly targets: readonly { readonly expr: string; readonly datasource: { readonly uid: string } }[];
  }[];
}
