/* Writes the man pages kvmnatd(8) and kvmnatd.yaml(5), made from help and schema, to the folder of the first argument. */
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { VERSION } from "../src/version.ts";
import { configPage } from "./man/config-page.ts";
import { programPage } from "./man/program-page.ts";
import { renderPage } from "./man/roff.ts";

const [folder = "dist/man"] = process.argv.slice(2);
const checkout = new URL("..", import.meta.url);

/** Date of the last commit, so that the same source makes the same page; the present day without a repository. */
function lastChange(): string {
  const epoch = process.env["SOURCE_DATE_EPOCH"];
  if (epoch !== undefined && /^\d{1,11}$/.test(epoch))
    return new Date(Number(epoch) * 1000).toISOString().slice(0, 10);
  try {
    return execFileSync("git", ["log", "-1", "--format=%cs"], { cwd: checkout, encoding: "utf8" }).trim();
  } catch {
    return new Date().toISOString().slice(0, 10);
  }
}

const common = { version: VERSION, date: lastChange() };
mkdirSync(folder, { recursive: true });
writeFileSync(
  join(folder, "kvmnatd.8"),
  renderPage({
    ...common,
    name: "kvmnatd",
    section: 8,
    manual: "System administration",
    blocks: programPage(),
  }),
);
writeFileSync(
  join(folder, "kvmnatd.yaml.5"),
  renderPage({
    ...common,
    name: "kvmnatd.yaml",
    section: 5,
    manual: "File formats",
    blocks: configPage(new URL("config.example.yaml", checkout)),
  }),
);
