import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { createLab } from "./lab.ts";
import type { ExecResult, Lab } from "./lab.ts";
import { mountTree } from "./tree.ts";

const TOP = resolve(import.meta.dirname, "../..");
const FOLDERS = { before: "dist/test-packages/before", now: "dist/test-packages/now" };
const BUILT = "KVMNATD_TEST_PACKAGES_BUILT";
const MACHINE = process.arch === "arm64" ? "arm64" : "amd64";

/** vitest's global set-up: the packages that users install, and a version before them. */
export function setup(): void {
  // Two of vitest's projects want them.
  if (process.env[BUILT] !== undefined) return;
  process.env[BUILT] = "yes";
  const build = (...options: readonly string[]): void =>
    void execFileSync("npm", ["run", "--silent", "package", "--", "--fast", MACHINE, ...options], {
      cwd: TOP,
    });
  build("--out", FOLDERS.now);
  build("--out", FOLDERS.before, "--version", "0.0.1");
}

/** @param ending of its name */
export function packageFile(which: keyof typeof FOLDERS, ending: ".deb" | ".rpm" | ".tar.gz"): string {
  const folder = join(TOP, FOLDERS[which]);
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
