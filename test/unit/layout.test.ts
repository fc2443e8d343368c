import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { describe, expect, it } from "vitest";

const SOURCE = resolve(import.meta.dirname, "../../src");

/** Every other part may import these. */
const LEAVES = new Set([
  "diagnostic",
  "distinct-by",
  "earliest",
  "event-codes",
  "memoize",
  "net",
  "rate-limit",
  "sanitize",
]);

/** What the files of each part may import, beside their own part and {@link LEAVES}. Leaf first. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  version: [],
  paths: [],
  errors: [],
  config: [],
  leases: [],
  identity: ["config", "leases"],
  forwards: ["config", "identity", "leases"],
  rules: ["config", "forwards", "identity", "leases"],
  libvirt: ["rules"],
  conntrack: ["config", "forwards", "leases", "rules"],
  log: ["config", "forwards", "rules"],
  status: ["config", "forwards", "rules"],
  history: ["rules", "status"],
  "host-interface": ["config", "conntrack", "identity", "leases", "log", "rules", "status"],
  daemon: [
    "config",
    "conntrack",
    "errors",
    "forwards",
    "host-interface",
    "identity",
    "leases",
    "libvirt",
    "log",
    "rules",
    "status",
  ],
  host: [
    "config",
    "conntrack",
    "errors",
    "history",
    "host-interface",
    "identity",
    "leases",
    "log",
    "paths",
    "rules",
    "status",
  ],
  cli: [
    "config",
    "conntrack",
    "daemon",
    "errors",
    "forwards",
    "history",
    "host",
    "host-interface",
    "leases",
    "log",
    "paths",
    "rules",
    "status",
    "version",
  ],
  demo: ["cli", "errors", "host", "paths", "status"],
  main: ["cli", "config", "demo", "errors", "host", "paths", "status"],
};

/** What the leaves may import of each other. */
const LEAF_IMPORTS: Readonly<Record<string, readonly string[]>> = { diagnostic: ["event-codes"] };

/** What the files of a folder inside a part may import of that part, beside their own folder. */
const INSIDE: Readonly<Record<string, readonly string[]>> = {
  "config/values": [],
  "config/yaml": ["config/values"],
  "config/schema": ["config/values", "config/yaml"],
};

/** Values in, values out: no clock, no I/O. */
const PURE = new Set(
  "distinct-by earliest memoize net rate-limit config leases identity forwards rules libvirt conntrack log history status".split(
    " ",
  ),
);
const PURE_MODULES = new Set(["node:crypto"]);

/** Packages that two files import, each with the reason. */
const SHARED_PACKAGES: ReadonlyMap<string, readonly string[]> = new Map([
  // The schema of the config and that of the published status.
  ["zod", ["config/schema/schema.ts", "status/schema.ts"]],
]);

interface Import {
  readonly from: string;
  readonly specifier: string;
  /** The imported file, relative to src/; undefined for a package, a module of Node and a file outside src/. */
  readonly to: string | undefined;
}

const files = readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).filter((file) =>
  file.endsWith(".ts"),
);
const imports = files.flatMap(readImports);

/** All imports of a file: of values and of types, static and by `import()`. */
function readImports(from: string): readonly Import[] {
  const text = readFileSync(join(SOURCE, from), "utf8");
  const found = text.matchAll(
    /^(?:import|export)\b[^;"]*?\bfrom "([^"]+)"|^import "([^"]+)"|\bimport\("([^"]+)"\)/gm,
  );
  return Array.from(found, ([, named, bare, dynamic]) => {
    const specifier = named ?? bare ?? dynamic ?? "";
    const path = relative(SOURCE, resolve(SOURCE, dirname(from), specifier));
    return { from, specifier, to: specifier.startsWith(".") && !path.startsWith("..") ? path : undefined };
  });
}

function partOf(file: string): string {
  return file.includes("/") ? file.slice(0, file.indexOf("/")) : file.replace(/\.ts$/, "");
}

function describeForbidden({ from, to }: Import): readonly string[] {
  if (to === undefined) return [];
  const [own, other] = [partOf(from), partOf(to)];
  const allowed = LEAVES.has(own) ? (LEAF_IMPORTS[own] ?? []) : [...LEAVES, ...(MAY_IMPORT[own] ?? [])];
  if (own !== other)
    return allowed.includes(other) ? [] : [`${from} imports ${to}: ${own} may not import ${other}`];
  const folder = dirname(from);
  const inside = INSIDE[folder];
  return inside === undefined || [folder, ...inside].includes(dirname(to))
    ? []
    : [`${from} imports ${to}: ${folder} may not import ${dirname(to)}`];
}

type Edge = readonly [from: string, to: string];

/** The cycles of a graph, each as `a -> b -> a`. */
function findCycles(edges: readonly Edge[]): readonly string[] {
  const next = Map.groupBy(edges, ([from]) => from);
  const cycles = new Set<string>();
  const done = new Set<string>();
  function visit(node: string, path: readonly string[]): void {
    if (path.includes(node)) cycles.add([...path.slice(path.indexOf(node)), node].join(" -> "));
    if (path.includes(node) || done.has(node)) return;
    for (const [, to] of next.get(node) ?? []) visit(to, [...path, node]);
    done.add(node);
  }
  for (const node of next.keys()) visit(node, []);
  return [...cycles];
}

function describeSharedPackages(): readonly string[] {
  const packages = imports.filter(({ specifier }) => !/^(?:node:|\.)/.test(specifier));
  return [...Map.groupBy(packages, ({ specifier }) => specifier)].flatMap(([name, rows]) => {
    const users = [...new Set(rows.map(({ from }) => from))].toSorted();
    const allowed = SHARED_PACKAGES.get(name) ?? users.slice(0, 1);
    return users.every((user) => allowed.includes(user))
      ? []
      : [`${name} is imported in ${users.length} files: ${users.join(", ")}`];
  });
}

/** Every violation of the source's layout, each with the file that makes it. */
function findViolations(): readonly string[] {
  const edges = imports.flatMap(({ from, to }): readonly Edge[] => (to === undefined ? [] : [[from, to]]));
  const parts = edges
    .map(([from, to]): Edge => [partOf(from), partOf(to)])
    .filter(([from, to]) => from !== to);
  const known = new Set([...LEAVES, ...Object.keys(MAY_IMPORT)]);
  return [
    ...files.filter((file) => !known.has(partOf(file))).map((file) => `${file} is in no part of the table`),
    ...imports.flatMap(describeForbidden),
    ...imports.flatMap(({ from, specifier }) =>
      PURE.has(partOf(from)) && specifier.startsWith("node:") && !PURE_MODULES.has(specifier)
        ? [`${from} imports ${specifier}: ${partOf(from)} is pure`]
        : [],
    ),
    ...findCycles(edges).map((cycle) => `cycle of files: ${cycle}`),
    ...findCycles(parts).map((cycle) => `cycle of folders: ${cycle}`),
    ...describeSharedPackages(),
  ];
}

describe("the layout of src/", () => {
  it("has static and dynamic imports to check", () => {
    expect(imports.filter(({ to }) => to !== undefined).length).toBeGreaterThan(300);
    expect(imports.map(({ specifier }) => specifier)).toContain("../host/metrics/server.ts");
  });

  it("follows the table of allowed imports, without a cycle of files or folders", () => {
    expect(findViolations()).toEqual([]);
  });
});
