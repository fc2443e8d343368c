import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, expect, it } from "vitest";

const ROOT = resolve(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "kvmnatd-monitoring-"));
afterAll(() => rmSync(folder, { recursive: true }));

const promtool = (...args: readonly string[]): string =>
  execFileSync("promtool", args, { cwd: ROOT, encoding: "utf8", stdio: "pipe" });

it("promtool accepts the alert rules", () => {
  expect(promtool("check", "rules", "docs/alerts.yaml")).toMatch(/SUCCESS: 5 rules found/);
});

it("the alerts fire in the expected states and in no others", () => {
  expect(promtool("test", "rules", "test/fixtures/alerts.yaml")).toMatch(/SUCCESS/);
});

it("promtool accepts every expression of the dashboard", () => {
  const dashboard = readFileSync(join(ROOT, "docs/grafana-dashboard.json"), "utf8");
  const { panels } = JSON.parse(dashboard) as { panels: { targets: { expr: string }[] }[] };
  const rules = panels
    .flatMap(({ targets }) => targets)
    .map(({ expr }, index) => ({
      record: `panel:${index}`,
      expr: expr.replaceAll("$__rate_interval", "5m").replaceAll("$instance", ".*"),
    }));
  const file = join(folder, "rules.json");
  writeFileSync(file, JSON.stringify({ groups: [{ name: "dashboard", rules }] }));
  expect(promtool("check", "rules", file)).toMatch(new RegExp(`SUCCESS: ${rules.length} rules found`));
});
