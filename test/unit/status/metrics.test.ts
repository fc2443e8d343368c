import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { countForwards } from "../../../src/status/counters.ts";
import { COUNTED, countPass, READ, readSamples } from "../../../src/status/metrics.ts";
import type { PassReport, Sample } from "../../../src/status/metrics.ts";
import { parseCounters } from "../../../src/rules/parse-save.ts";
import type { DaemonStatus, ForwardStatus } from "../../../src/status/status.ts";
import { createRegistry } from "../../../src/host/metrics/registry.ts";

const DOCS = join(import.meta.dirname, "../../../docs");
const SPECS = [...COUNTED, ...READ];

const forward = (more: Partial<ForwardStatus> = {}): ForwardStatus => ({
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

const status = (more: Partial<DaemonStatus> = {}): DaemonStatus => ({
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
});

const valueOf = (samples: readonly Sample[], name: string): number | undefined =>
  samples.find((sample) => sample.name === name)?.value;

describe("what a forward's rules count", () => {
  const counted = (text: string, ...forwards: readonly ForwardStatus[]): readonly (number | null)[] => {
    const rules = new Map([[4 as const, parseCounters(text, "KVMNATD-DNAT")]]);
    return countForwards(forwards, rules).map(({ packets }) => packets);
  };
  const rule = (packets: number, match: string, guest = "web"): string =>
    `[${packets}:100] -A KVMNATD-DNAT ${match} -m comment --comment "kvmnatd:${guest}" -j DNAT --to-destination 192.168.122.11:22\n`;
  const PORT = "-p tcp -m tcp --dport 1122";

  it.each<[string, string, readonly ForwardStatus[], readonly (number | null)[]]>([
    ["one rule", rule(3, PORT), [forward()], [3]],
    [
      "a rule for each source",
      rule(3, `-s 10.0.0.0/8 ${PORT}`) + rule(4, `-s 192.0.2.0/24 ${PORT}`),
      [forward()],
      [7],
    ],
    ["none", "", [forward()], [null]],
    ["another guest's", rule(3, PORT, "db"), [forward()], [null]],
    [
      "the same port on two addresses, and on 127.0.0.1",
      rule(1, `-d 198.51.100.1/32 ${PORT}`) +
        rule(2, `-d 198.51.100.9/32 ${PORT}`) +
        rule(4, `-d 127.0.0.1/32 ${PORT}`),
      [forward({ listen: ["198.51.100.1"] }), forward({ listen: ["198.51.100.9"] })],
      [5, 2],
    ],
    [
      "a range",
      rule(6, "-p tcp -m tcp --dport 8000:8010"),
      [forward({ published: "8000-8010", target: "80-90" })],
      [6],
    ],
  ])("%s", (_, text, forwards, expected) => {
    expect(counted(text, ...forwards)).toEqual(expected);
  });
});

describe("a pass", () => {
  it.each([
    ["start", "start"],
    ["SIGHUP", "reload"],
    ["ruleset changed", "rules"],
    ["address or link changed", "links"],
    ["virbr0.status", "leases"],
    ["br.status.macs", "leases"],
    ["libvirt's networks", "leases"],
    ["monitor of links runs", "other"],
  ])("that %s asked for counts as %s", (trigger, kind) => {
    const [sample] = countPass(report({ triggers: [trigger, "config"] }), undefined);
    expect(sample).toEqual({
      name: "kvmnatd_passes_total",
      labels: { trigger: kind, outcome: "unchanged" },
      value: 1,
    });
  });

  it("counts an error that stays once, and one that comes again twice", () => {
    const faulty = report({ configErrors: ["a"], leaseErrors: ["x", "y"] });
    const told = (now: PassReport, before?: PassReport): readonly (number | undefined)[] => {
      const samples = countPass(now, before);
      return ["kvmnatd_config_errors_total", "kvmnatd_lease_errors_total"].map((name) =>
        valueOf(samples, name),
      );
    };
    expect(told(faulty)).toEqual([1, 2]);
    expect(told(faulty, faulty)).toEqual([0, 0]);
    expect(told(faulty, report({ leaseErrors: ["x"] }))).toEqual([1, 1]);
  });
});

describe("the state", () => {
  it("has every state, also those that no forward is in", () => {
    const samples = readSamples(status({ forwards: [forward()] }), []);
    const states = samples.filter(({ name }) => name === "kvmnatd_forwards");
    expect(states.map(({ labels, value }) => `${labels?.["state"]} ${value}`)).toEqual([
      "active 1",
      "pending 0",
      "degraded 0",
    ]);
  });

  it("says nothing of packets that could not be read", () => {
    const samples = readSamples(status(), [{ ...forward(), packets: null, bytes: null }]);
    expect(samples.filter(({ name }) => name.startsWith("kvmnatd_forward_"))).toEqual([]);
  });
});

describe("the registry", () => {
  it("knows every metric with its labels, and escapes names", async () => {
    const registry = createRegistry();
    const problems = [{ code: "config-invalid", message: "x", severity: "error" }] as const;
    const counted = [{ ...forward({ guest: 'a"b\\c' }), packets: 1, bytes: 60 }];
    registry.add(countPass(report(), undefined));
    registry.replaceRead(readSamples(status({ problems }), counted));
    const text = await registry.render();
    expect(text).toContain('kvmnatd_forward_packets_total{guest="a\\"b\\\\c",');
    for (const { name } of SPECS) expect(text).toMatch(new RegExp(`^${name}(_count)?({| )`, "m"));
  });

  it("forgets what is gone, and keeps what it counted", async () => {
    const registry = createRegistry();
    for (let index = 0; index < 1000; index += 1) {
      registry.add(countPass(report(), undefined));
      const counted = [{ ...forward({ guest: `g${index}` }), packets: 1, bytes: 60 }];
      registry.replaceRead(readSamples(status({ version: `${index}` }), counted));
    }
    const text = await registry.render();
    expect(text.match(/guest=/g)).toHaveLength(2);
    expect(text.match(/^kvmnatd_build_info\{/gm)).toHaveLength(1);
    expect(text).toContain('kvmnatd_passes_total{trigger="timer",outcome="unchanged"} 1000');
  });
});

describe("the documents", () => {
  const doc = readFileSync(join(DOCS, "metrics.md"), "utf8");
  const dashboard = JSON.parse(readFileSync(join(DOCS, "grafana-dashboard.json"), "utf8")) as Dashboard;
  const alerts = readFileSync(join(DOCS, "alerts.yaml"), "utf8");
  const known = SPECS.flatMap(({ name, type }) =>
    type === "histogram" ? [`${name}_bucket`, `${name}_count`, `${name}_sum`] : [name],
  );
  const namesIn = (text: string): readonly string[] => text.match(/\bkvmnatd_\w+/g) ?? [];

  it.each(SPECS)("metrics.md has $name with its labels", ({ name, type, labels }) => {
    const row = doc.split("\n").find((line) => line.startsWith(`| \`${name}\``));
    const [, , documented = "", labelled = ""] = (row ?? "").split("|").map((cell) => cell.trim());
    expect([documented, labelled]).toEqual([type, labels.map((label) => `\`${label}\``).join(", ")]);
  });

  it("metrics.md has no others", () => {
    const rows = doc.match(/^\| `(kvmnatd_\w+)`/gm) ?? [];
    expect(rows).toHaveLength(SPECS.length);
  });

  it("the dashboard asks for what there is, by a data source that is chosen when it is imported", () => {
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

  it("the alerts ask for what there is", () => {
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
