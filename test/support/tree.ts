import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import type { Lab } from "./lab.ts";

const SCRIPT = resolve(import.meta.dirname, "../../packaging/debian-tree.sh");
const ROOT = "/run/tree";

/**
 * The tree's own files stay as they are: what a test writes goes to the lab's memory. /run, /proc, /sys and /dev are
 * the lab's, so that programs inside and outside see the same host.
 */
const MOUNT = `
mkdir -p /run/tree-upper /run/tree-work ${ROOT} /run/lock
mount -t overlay -o lowerdir=$1,upperdir=/run/tree-upper,workdir=/run/tree-work overlay ${ROOT}
for each in run proc sys dev tmp; do mount --bind /$each ${ROOT}/$each; done
`;

/** A newer Debian with libvirt, QEMU, Docker, firewalld and ufw, seen from inside a lab. */
export interface Tree {
  /** Its root folder as the lab's other programs see it. */
  readonly root: string;
  /** The command line that runs a program of the tree. */
  run(command: readonly string[]): readonly string[];
}

/** The tree's folder; it is made where it is not there yet (minutes). */
export async function debianTree(): Promise<string> {
  const { stdout } = await promisify(execFile)("sh", [SCRIPT]);
  return stdout.trim();
}

/** Mounts the tree in the lab. */
export async function mountTree(lab: Lab): Promise<Tree> {
  await lab.exec(["sh", "-ec", MOUNT, "sh", await debianTree()]);
  const env = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  return {
    root: ROOT,
    run: (command) => [
      "chroot",
      ROOT,
      "env",
      "-i",
      env,
      "HOME=/root",
      "LC_ALL=C.UTF-8",
      "TERM=dumb",
      ...command,
    ],
  };
}
