import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { createLab, createRunner } from "./lab.ts";
import type { ExecResult, Lab } from "./lab.ts";
import { debianTree, mountTree } from "./tree.ts";

const TOP = resolve(import.meta.dirname, "../..");
/** Where the tree and the container see the test cache. */
const CACHE = "/var/cache/kvmnatd-test";
/** Where the tree sees the project. */
const CONTEXT = "/mnt";
const BASE = "docker.io/library/debian:trixie";
const CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt";

const PODMAN = ["podman", `--root=${CACHE}/containers`, "--runroot=/run/podman", "--storage-driver=overlay"];
/** What Podman asks for otherwise is more than a root without all capabilities may have. */
const LIMITS = ["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"];

/** Podman's locks lie in /dev/shm. Of control groups it knows but version 2, which a host may have beside version 1. */
const MOUNT = `
mkdir -p "$1${CACHE}"
mount --bind "$2" "$1${CACHE}"
mount --bind -o ro "$3" "$1${CONTEXT}"
mount -t tmpfs shm "$1/dev/shm"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
cat >"$1/etc/resolv.conf"
`;

/** The base image, and nothing of a build that was killed. */
const PREPARE = `
podman() { command ${PODMAN.join(" ")} "$@"; }
podman ps --all --external --quiet | while read -r each; do podman rm --force "$each"; done
podman image exists ${BASE} || podman import --quiet ${CACHE}/base.tar ${BASE}
`;

/** Podman from the Debian tree, in a lab. It asks no registry of images; what it builds stays in the test cache. */
export interface Podman {
  /** @param file a Dockerfile of the project, which is the context. @returns what the build printed */
  build(file: string, image: string): Promise<string>;
  /** Runs a command in a privileged container without a network, which has the test cache. */
  run(image: string, command: readonly string[]): Promise<ExecResult>;
  close(): Promise<void>;
}

const MINUTE_MS = 60_000;
const WAIT_MS = 10 * MINUTE_MS;
const BUILD = { timeoutMs: 10 * MINUTE_MS };
const RUN = { timeoutMs: 10 * MINUTE_MS, check: false };

export async function createPodman(): Promise<Podman> {
  const lab = await createLab();
  try {
    return await openPodman(lab);
  } catch (error) {
    await lab.close();
    throw error;
  }
}

async function openPodman(lab: Lab): Promise<Podman> {
  const cache = dirname(await debianTree());
  const tree = await mountTree(lab);
  const home = join(lab.dir, "home");
  /** In the lab but for the network: a build downloads packages. */
  const online = createRunner(() => lab.enter.filter((option) => option !== "--net"), {});
  const inTree = (...command: readonly string[]): readonly string[] =>
    tree.run(["env", `TMPDIR=${lab.dir}`, ...proxies(), ...command]);
  const input = await readFile("/etc/resolv.conf", "utf8");
  await lab.exec(["sh", "-ec", MOUNT, "sh", tree.root, cache, TOP], { input });
  // The Podmans of two labs would not know of each other: the second test run waits for the first.
  const lock = lab.spawn([
    "flock",
    join(cache, ".containers"),
    "sh",
    "-c",
    "echo alone; exec sleep infinity",
  ]);
  await lock.waitForLine(/^alone$/, WAIT_MS);
  return {
    build: async (file, image) => {
      await makeHome(home);
      await lab.exec(inTree("sh", "-ec", PREPARE), { timeoutMs: MINUTE_MS });
      const options = ["--pull=never", "--isolation=chroot", "--network=host", "--layers", ...LIMITS];
      const where = [`--volume=${home}:/root`, `--file=${CONTEXT}/${file}`, `--tag=${image}`, CONTEXT];
      const { stdout } = await online.exec(inTree(...PODMAN, "build", ...options, ...where), BUILD);
      // The layers of the build before, but for those that this one took over.
      await lab.exec(inTree(...PODMAN, "image", "prune", "--force"), { timeoutMs: MINUTE_MS });
      return stdout;
    },
    run: (image, command) => {
      const options = [
        "--rm",
        "--pull=never",
        "--privileged",
        "--network=none",
        "--shm-size=2g",
        "--cgroups=disabled",
        "--env=NO_COLOR=1",
        ...LIMITS,
      ];
      return lab.exec(
        inTree(...PODMAN, "run", ...options, `--volume=${CACHE}:${CACHE}`, image, ...command),
        RUN,
      );
    },
    close: () => lab.close(),
  };
}

/** Podman hands them on to what it builds. */
function proxies(): readonly string[] {
  const own = Object.entries(process.env).filter(([name]) => /^(https?|no)_proxy$/i.test(name));
  return own.map(([name, value]) => `${name}=${value}`);
}

/** Root's home folder for a build: a registry and certificates that npm needs on this machine it needs there too. */
async function makeHome(home: string): Promise<void> {
  const own = await readFile(await npmConfig("userconfig"), "utf8").catch(() => "");
  const certificates = await readFile(CERTIFICATES, "utf8").catch(() => "");
  const lines = [own, `registry=${await npmConfig("registry")}`];
  await mkdir(home);
  if (certificates !== "") {
    lines.push("cafile=/root/certificates");
    await writeFile(join(home, "certificates"), certificates);
  }
  await writeFile(join(home, ".npmrc"), `${lines.join("\n")}\n`);
}

async function npmConfig(key: string): Promise<string> {
  const { stdout } = await promisify(execFile)("npm", ["config", "get", key], { cwd: TOP });
  return stdout.trim();
}
