import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { childOf, createRunner, until } from "./lab.ts";
import type { Lab } from "./lab.ts";

const BOOT = resolve(import.meta.dirname, "boot.sh");
const BOOT_MS = 180_000;

/** A host with a real systemd, journal and services, over a root folder that stays as it is. */
export interface BootedHost extends Lab {
  /** The powering off and on; what was written to disk stays, what was in memory goes. */
  reboot(): Promise<void>;
  /** Runs a shell script; its standard output, trimmed. @throws when it fails */
  sh(script: string): Promise<string>;
}

/** @param root of this machine, or of another Debian (see tree.ts) */
export async function bootHost(root = "/"): Promise<BootedHost> {
  const dir = await mkdtemp(join(tmpdir(), "kvmnatd-boot-"));
  // An overlay's two sides lie on different file systems.
  const upper = await mkdtemp("/dev/shm/kvmnatd-boot-");
  let system = await boot(dir, root, upper);
  const inside = createRunner(() => ["nsenter", "--target", `${system.pid}`, ...NAMESPACES], {
    ...ENVIRONMENT,
    TERM: "dumb",
  });
  return {
    ...inside,
    dir,
    get root() {
      return `/proc/${system.pid}/root`;
    },
    get enter() {
      return ["nsenter", "--target", `${system.pid}`, ...NAMESPACES];
    },
    sh: async (script) => (await inside.exec(["sh", "-ec", script])).stdout.trim(),
    kvmnatd: (args, env = {}) => inside.exec(["kvmnatd", ...args], { check: false, env, timeoutMs: 90_000 }),
    reboot: async () => {
      await powerOff(system, () => inside.release());
      system = await boot(dir, root, upper);
    },
    close: async () => {
      await powerOff(system, () => inside.release());
      await rm(dir, { recursive: true, force: true });
      await rm(upper, { recursive: true, force: true });
    },
  };
}

const NAMESPACES = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"];

/** No Node, and none of what this test run was started with. */
const ENVIRONMENT = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  HOME: "/root",
  LC_ALL: "C.UTF-8",
  NO_COLOR: "1",
  SYSTEMD_PAGER: "",
  RUNTIME_DIRECTORY: "",
};

interface System {
  readonly holder: ChildProcess;
  readonly ended: Promise<unknown>;
  /** Its process 1, as this machine counts. */
  readonly pid: number;
}

async function boot(dir: string, root: string, upper: string): Promise<System> {
  await rm(join(dir, "holder"), { force: true });
  // --pdeathsig: when the test runner is killed, its systems go too.
  const holder = spawn("setpriv", ["--pdeathsig", "TERM", "bash", BOOT, dir, root, upper], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let complaint = "";
  holder.stderr.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
  const ended = new Promise((done) => holder.once("close", done));
  const what = async (): Promise<string> =>
    `${complaint}\n${await readFile(join(dir, "console"), "utf8").catch(() => "")}`;
  try {
    const pid = await until("systemd starts", () => findSystemd(dir), BOOT_MS);
    const enter = ["nsenter", "--target", `${pid}`, ...NAMESPACES];
    const runner = createRunner(() => enter, ENVIRONMENT);
    await until(
      "systemd listens",
      async () =>
        (await runner.exec(["test", "-S", "/run/systemd/private"], { check: false })).exitCode === 0,
      BOOT_MS,
    );
    const { stdout } = await runner.exec(["systemctl", "is-system-running", "--wait"], {
      check: false,
      timeoutMs: BOOT_MS,
    });
    if (stdout.trim() !== "running") {
      const { stdout: failed } = await runner.exec(["systemctl", "--failed", "--no-legend"], {
        check: false,
      });
      throw new Error(`the system is ${stdout.trim()}:\n${failed}`);
    }
    return { holder, ended, pid };
  } catch (error) {
    holder.kill();
    throw new Error(`no system: ${await what()}`, { cause: error });
  }
}

async function findSystemd(dir: string): Promise<number | undefined> {
  const holder = await readFile(join(dir, "holder"), "utf8").catch(() => "");
  if (holder === "") return undefined;
  const pid = await childOf(Number(holder));
  const name = await readFile(`/proc/${pid}/comm`, "utf8");
  return name === "systemd\n" ? pid : undefined;
}

/** SIGRTMIN+4 is systemd's signal for poweroff.target. */
const POWER_OFF = 38;
const POWER_OFF_MS = 30_000;
const WAKE_MS = 100;

async function powerOff({ pid, ended }: System, release: () => void): Promise<void> {
  const kill = (): boolean => process.kill(pid, "SIGKILL");
  process.kill(pid, POWER_OFF);
  // Before systemd kills what is left it stops it, and so stops nsenter, which then reaps nobody.
  const waking = setInterval(release, WAKE_MS);
  const timer = setTimeout(kill, POWER_OFF_MS);
  await ended;
  clearInterval(waking);
  clearTimeout(timer);
}
