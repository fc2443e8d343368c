import { spawn } from "node:child_process";
import { EXIT, KvmnatdError } from "../errors.ts";
import { findProgram, programFolders } from "../host/exec/programs.ts";
import { playStory } from "./story.ts";
import type { DemoOptions } from "./story.ts";

/** Set in the environment of the demo's inner half. */
const INSIDE = "KVMNATD_DEMO_INSIDE";

/** Debian's package of each program that the demo needs. */
const PROGRAMS: Readonly<Record<string, string>> = {
  unshare: "util-linux",
  setpriv: "util-linux",
  ip: "iproute2",
  iptables: "iptables",
  dnsmasq: "dnsmasq-base",
  udhcpc: "udhcpc",
};

/**
 * Plays a forward following a lease, with a real dnsmasq, guest and client, in namespaces that end with the demo.
 * @returns the exit code: 0 only if every step worked; 128 + signal when it was stopped
 * @throws KvmnatdError when something that it needs is missing
 */
export async function runDemo(options: DemoOptions): Promise<number> {
  if (process.env[INSIDE] !== undefined) return playStory(options);
  await requirePrograms();
  return enterNamespaces(options);
}

async function requirePrograms(): Promise<void> {
  if (process.getuid?.() !== 0)
    throw new KvmnatdError(
      "demo",
      "the demo makes network namespaces, which needs root; run `sudo kvmnatd demo`",
    );
  const missing = [];
  for (const [program, debian] of Object.entries(PROGRAMS))
    if ((await findProgram(program)) === undefined) missing.push(debian);
  if (missing.length === 0) return;
  const packages = [...new Set(missing)].join(" ");
  throw new KvmnatdError("demo", `the demo needs these Debian packages: apt-get install ${packages}`);
}

/**
 * All that the demo makes lives in namespaces of its first process, and ends with it. That process is killed with
 * its parents (`--pdeathsig`, `--kill-child`), so that nothing stays behind after kill -9 either.
 */
async function enterNamespaces({ selfCommand, signal, write }: DemoOptions): Promise<number> {
  const unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const args = ["--pdeathsig", "KILL", ...unshare, ...selfCommand, "demo"];
  // A session of its own: Ctrl-C comes to us alone, and we end everything at once.
  const inside = spawn("setpriv", args, {
    stdio: ["ignore", "inherit", "inherit"],
    detached: true,
    env: { ...process.env, PATH: programFolders().join(":"), [INSIDE]: "1" },
  });
  signal.addEventListener("abort", () => inside.kill("SIGKILL"), { once: true });
  const code = await new Promise<number | null>((resolve, reject) => {
    inside.once("error", reject);
    inside.once("close", resolve);
  });
  if (!signal.aborted) return code ?? EXIT.failed;
  write("\nThe demo was stopped. Nothing of it is left on this machine.\n");
  return signal.reason === "SIGTERM" ? 143 : 130;
}
