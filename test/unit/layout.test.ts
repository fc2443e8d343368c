import { readdirSync, readFileSync } from "node:fs";
import { join, relative, resolve, dirname } from "node:path";
import { describe, expect, it } from "vitest";

const SOURCE = resolve(import.meta.dirname, "../../src");
const files = readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).filter((file) =>
  file.endsWith(".ts"),
);

/** What a file of each part may import, besides its own part. The edges point inwards: core knows nobody. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  host: ["core", "ports", "errors"],
  daemon: ["core", "ports", "errors"],
  commands: ["core", "host", "daemon", "ports", "errors", "wire", "version", "colors"],
  demo: ["core", "host", "errors", "colors"],
  ports: ["core"],
  errors: ["core"],
  wire: ["core", "host", "daemon", "ports", "errors"],
  cli: ["commands", "completion", "errors", "version", "wire"],
  main: ["cli", "commands", "completion", "core", "demo", "errors", "host", "colors"],
  completion: [],
  version: [],
  colors: [],
};

interface Import {
  readonly file: string;
  readonly specifier: string;
}

const imports: readonly Import[] = files.flatMap((file) =>
  [...readFileSync(join(SOURCE, file), "utf8").matchAll(/^(?:import|export) [^;]*?from "([^"]+)"/gm)].map(
    (match) => ({
      file,
      specifier: match[1] ?? "",
    }),
  ),
);

function partOf(file: string): string {
  return file.includes("/") ? file.slice(0, file.indexOf("/")) : file.replace(/\.ts$/, "");
}

describe("imports", () => {
  it("are found at all", () => {
    expect(imports.length).toBeGreaterThan(50);
  });

  it.each(imports.filter(({ specifier }) => specifier.startsWith(".") && specifier.endsWith(".ts")))(
    "$file -> $specifier goes inwards",
    ({ file, specifier }) => {
      const target = partOf(relative(SOURCE, resolve(SOURCE, dirname(file), specifier)));
      const own = partOf(file);
      expect([own, ...(MAY_IMPORT[own] ?? [])]).toContain(target);
    },
  );

  it("name each package in one file only", () => {
    const packages = imports.filter(
      ({ specifier }) => !specifier.startsWith(".") && !specifier.startsWith("node:"),
    );
    const users = Map.groupBy(packages, ({ specifier }) => specifier);
    const shared = [...users].filter(([, rows]) => new Set(rows.map(({ file }) => file)).size > 1);
    expect(shared.map(([name, rows]) => `${name}: ${rows.map(({ file }) => file).join(", ")}`)).toEqual([]);
  });

  it("of core take nothing from Node but what is pure", () => {
    const builtIn = imports.filter(
      ({ file, specifier }) => partOf(file) === "core" && specifier.startsWith("node:"),
    );
    expect(builtIn.filter(({ specifier }) => specifier !== "node:crypto")).toEqual([]);
  });
});
