import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

/** An architecture, by its name in each packaging system. */
export interface Machine {
  readonly deb: string;
  readonly rpm: string;
  readonly node: string;
}

export const MACHINES: readonly Machine[] = [
  { deb: "amd64", rpm: "x86_64", node: "x64" },
  { deb: "arm64", rpm: "aarch64", node: "arm64" },
];

/** The Node.js runtime of an architecture, without debugging symbols. */
export interface Runtime {
  readonly program: string;
  readonly license: string;
}

/**
 * Provides the Node.js runtime, in the version of the dev dependency `node` that the tests run with.
 * It is stripped (126 MB become 109) and kept in the cache.
 */
export function bringRuntime(machine: Machine, cache: string): Runtime {
  const { version } = JSON.parse(readFileSync("node_modules/node/package.json", "utf8")) as {
    version: string;
  };
  const name = `node-linux-${machine.node}`;
  const folder = join(cache, `${name}-${version}`);
  if (!existsSync(folder)) {
    mkdirSync(cache, { recursive: true });
    const scratch = mkdtempSync(join(cache, "new-"));
    const unpacked = unpack(name, version, scratch);
    const made = join(scratch, "made");
    mkdirSync(made);
    execFileSync("install", ["-m", "644", join(unpacked, "LICENSE"), made]);
    const program = join(unpacked, "bin/node");
    execFileSync(`${machine.rpm}-linux-gnu-strip`, ["-o", join(made, "node"), program]);
    renameSync(made, folder);
    rmSync(scratch, { recursive: true });
  }
  return { program: join(folder, "node"), license: join(folder, "LICENSE") };
}

/** Finds the runtime of this architecture in node_modules, and downloads another's by npm, which checks its digest. */
function unpack(name: string, version: string, scratch: string): string {
  const here = join("node_modules/node/node_modules", name);
  if (existsSync(join(here, "bin/node"))) return here;
  const archive = execFileSync(
    "npm",
    ["pack", "--silent", "--pack-destination", scratch, `${name}@${version}`],
    { encoding: "utf8" },
  ).trim();
  execFileSync("tar", ["-xzf", join(scratch, archive), "-C", scratch, "package/bin/node", "package/LICENSE"]);
  return join(scratch, "package");
}
