import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { createLab, until } from "./lab.ts";
import type { ExecResult, Lab } from "./lab.ts";
import { mountTree } from "./tree.ts";

const TOP = resolve(import.meta.dirname, "../..");
const FOLDER = "dist/test-packages";
type Version = "before" | "now";
const BUILT = "KVMNATD_TEST_PACKAGES_BUILT";
const MACHINE = process.arch === "arm64" ? "arm64" : "amd64";
/** The exit code appears in one step, when all files are there. */
const BUILD = `
build() { # VERSION OPTION...
  version=$1; shift
  npm run --silent package -- --fast ${MACHINE} --out ${FOLDER}/$version "$@" >${FOLDER}/$version.log 2>&1
  echo $? >${FOLDER}/$version.new && mv ${FOLDER}/$version.new ${FOLDER}/$version.code
}
build before --version 0.0.1
build now`;
const BUILD_MS = 240_000;

/**
 * vitest's global set-up: begins to build the packages that users install, and a version before them. Other tests run
 * meanwhile; {@link packageFile} waits for the packages.
 */
export function setup(): (() => void) | undefined {
  // Two of vitest's projects want them.
  if (process.env[BUILT] !== undefined) return undefined;
  process.env[BUILT] = "yes";
  rmSync(join(TOP, FOLDER), { recursive: true, force: true });
  mkdirSync(join(TOP, FOLDER), { recursive: true });
  // In its own process group, so that all of it ends when the tests end before it.
  const build = spawn("sh", ["-c", BUILD], { cwd: TOP, stdio: "ignore", detached: true });
  return () => {
    if (build.exitCode === null && build.pid !== undefined) process.kill(-build.pid, "SIGTERM");
  };
}

/** @param ending of its name. @throws with the output of the build when it failed */
export async function packageFile(which: Version, ending: ".deb" | ".rpm" | ".tar.gz"): Promise<string> {
  const folder = join(TOP, FOLDER, which);
  const [code, log] = [`${folder}.code`, `${folder}.log`];
  await until(`the packages "${which}" are built; see ${log}`, () => existsSync(code), BUILD_MS);
  if (readFileSync(code, "utf8").trim() !== "0") throw new Error(readFileSync(log, "utf8"));
  const name = readdirSync(folder).find((each) => each.endsWith(ending));
  if (name === undefined) throw new Error(`no ${ending} in ${folder}`);
  return join(folder, name);
}

/** rpm's options for a machine of Debian's packages, which rpm does not know of; Debian's older rpm wants to be asked twice. */
export function rpmOptions(): readonly string[] {
  const knows = execFileSync("rpm", ["--help"], { encoding: "utf8" }).includes("--force-debian");
  return knows ? ["--nodeps", "--force-debian"] : ["--nodeps"];
}

/** A small Debian to install things in, that is thrown away; it has no Node.js, and systemd has not booted it. */
export interface Machine {
  readonly lab: Lab;
  /** Its root folder, seen from the lab. */
  readonly root: string;
  /** Runs a shell script in it. */
  sh(script: string, options?: { check?: boolean }): Promise<ExecResult>;
  /** The same as in a machine of its own: its first process has the same root, so this is no chroot. */
  shAsHost(script: string, options?: { check?: boolean }): Promise<ExecResult>;
  /** Copies a file to where the machine sees it. @returns its path, the same in the lab and in the machine */
  bring(file: string): Promise<string>;
  /** What is not as in the tree that it was made from; but for logs, caches and package managers' own files. */
  changes(): Promise<readonly string[]>;
}

const TIMEOUT_MS = 180_000;
/** Programs that change users leave the files as they were before beside them. */
const APART = [
  "./var/lib/dpkg",
  "./var/lib/apt",
  "./var/lib/rpm",
  "./var/log",
  "./var/cache",
  "./etc/*-",
  "./etc/.pwd.lock",
];
/** The upper layer of an overlay is what was written; a whiteout, which is no file, is what was removed. */
const CHANGES = `
lower=$(findmnt -no OPTIONS "$1" | grep -o 'lowerdir=[^,]*' | cut -d= -f2)
cd /run/tree-upper
find . ${APART.map((path) => `-path '${path}' -prune -o`).join(" ")} -print | sort | while read -r path; do
  if [ -L "$path" ]; then [ "$(readlink "$path")" = "$(readlink "$lower/$path")" ] || echo "$path"
  elif [ -d "$path" ]; then [ -d "$lower/$path" ] || echo "$path/"
  else cmp -s "$path" "$lower/$path" || echo "$path"
  fi
done`;

export async function createMachine(): Promise<Machine> {
  const lab = await createLab();
  const tree = await mountTree(lab);
  const exec = (command: readonly string[], { check = true } = {}): Promise<ExecResult> =>
    lab.exec(command, { check, timeoutMs: TIMEOUT_MS });
  const asHost = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", `--root=${tree.root}`];
  const [, , ...clean] = tree.run(["sh", "-ec"]);
  return {
    lab,
    root: tree.root,
    sh: (script, options) => exec(tree.run(["sh", "-ec", script]), options),
    shAsHost: (script, options) => exec([...asHost, ...clean, script], options),
    bring: async (file) => {
      const target = join(lab.dir, basename(file));
      await copyFile(file, target);
      return target;
    },
    changes: async () => {
      const { stdout } = await exec(["sh", "-ec", CHANGES, "sh", tree.root]);
      return stdout.split("\n").filter((line) => line !== "");
    },
  };
}
