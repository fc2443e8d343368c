import { spawn } from "node:child_process";
import type { ChildProcess, ChildProcessWithoutNullStreams } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { DaemonStatus } from "../../src/status/status.ts";

/** The built program. */
export const PROGRAM: string = resolve(import.meta.dirname, "../../dist/kvmnatd.js");
const POLL_MS = 20;
const SOON_MS = 120_000;

interface ExecOptions {
  /** A network namespace made in the lab by `ip netns add`. */
  readonly netns?: string;
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
  /** False: a non-zero exit code is part of the answer. */
  readonly check?: boolean;
}

export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/** A program that runs until it is stopped, or the lab ends. */
export interface LabProcess {
  /** Standard output and error so far, a line each. */
  readonly lines: readonly string[];
  readonly stdin: NodeJS.WritableStream;
  waitForLine(pattern: RegExp, timeoutMs?: number): Promise<string>;
  /** The process itself, not nsenter in front of it. */
  kill(signal: NodeJS.Signals): Promise<void>;
  readonly exited: Promise<number>;
}

/** A host of its own: network, mounts (/run is empty), processes. All of it ends with its first process. */
export interface Lab {
  exec(command: readonly string[], options?: ExecOptions): Promise<ExecResult>;
  spawn(command: readonly string[], options?: ExecOptions): LabProcess;
  /** Runs the built program; a non-zero exit code is part of the answer. */
  kvmnatd(args: readonly string[], env?: Readonly<Record<string, string>>): Promise<ExecResult>;
  /** Command line to put before a program to run it with all of the lab's namespaces. */
  readonly enter: readonly string[];
  /** Scratch folder; the same inside and outside. */
  readonly dir: string;
  /** Its root folder, seen from outside. */
  readonly root: string;
  close(): Promise<void>;
}

const SETUP = `
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/netns
mount -t sysfs sysfs /sys
ip link set lo up
for each in arptables ip6tables iptables; do
  if [ -e /proc/sys/net/bridge/bridge-nf-call-$each ]; then echo 0 > /proc/sys/net/bridge/bridge-nf-call-$each; fi
done
`;

export async function createLab(): Promise<Lab> {
  const dir = await mkdtemp(join(tmpdir(), "kvmnatd-lab-"));
  // --pdeathsig: when the test runner is killed, its labs go too.
  const args = ["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"];
  const first = spawn("setpriv", [...args, "--mount-proc", "sh", "-c", "echo up; exec sleep infinity"]);
  await isUp(first);
  const pid = await childOf(first.pid ?? 0);
  // --root: in a chroot, entering the mounts alone would lead out of it.
  const enter = ["nsenter", "--target", `${pid}`, "--net", "--mount", "--pid", "--root", "--wd", "--"];
  const inside = createRunner(() => enter, {
    RUNTIME_DIRECTORY: join(dir, "run"),
    NO_COLOR: "1",
  });
  const lab: Lab = {
    ...inside,
    enter,
    dir,
    root: `/proc/${pid}/root`,
    kvmnatd: (given, own = {}) =>
      lab.exec([process.execPath, PROGRAM, ...given], { check: false, env: own, timeoutMs: 90_000 }),
    close: async () => {
      const ended = new Promise((done) => first.once("close", done));
      process.kill(pid, "SIGKILL");
      inside.release();
      await ended;
      await rm(dir, { recursive: true, force: true });
    },
  };
  try {
    await lab.exec(["sh", "-ec", SETUP]);
  } catch (error) {
    await lab.close();
    throw error;
  }
  return lab;
}

interface Runner extends Pick<Lab, "exec" | "spawn"> {
  /** Namespaces end when all their processes are reaped, which a stopped nsenter does not do. */
  release(): void;
}

/** @param enter the command line that enters the namespaces; @param env for every program */
export function createRunner(enter: () => readonly string[], env: Readonly<Record<string, string>>): Runner {
  const launched: ChildProcess[] = [];
  return {
    exec: (command, options = {}) => execute([...enter(), ...inNetns(command, options)], options, env),
    spawn: (command, options = {}) => {
      const child = start([...enter(), ...inNetns(command, options)], options, env);
      launched.push(child);
      return follow(child);
    },
    release: () => {
      for (const child of launched) child.kill("SIGCONT");
    },
  };
}

/** @throws with the complaint of unshare: mostly that this is not root */
async function isUp(first: ChildProcessWithoutNullStreams): Promise<void> {
  let complaint = "";
  first.stderr.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
  await new Promise((done, fail) => {
    first.stdout.once("data", done);
    first.once("error", fail);
    first.once("close", (code) => fail(new Error(`no lab (exit code ${code}): ${complaint.trim()}`)));
  });
}

function inNetns(command: readonly string[], { netns }: ExecOptions): readonly string[] {
  return netns === undefined ? command : ["ip", "netns", "exec", netns, ...command];
}

/** A process whose only child is what we are looking for: unshare or nsenter, which fork into a PID namespace. */
export async function childOf(pid: number): Promise<number> {
  return until(`process ${pid} has a child`, async () => {
    const children = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8");
    return Number(children.trim().split(" ")[0] ?? "") || undefined;
  });
}

async function execute(
  argv: readonly string[],
  options: ExecOptions,
  env: Readonly<Record<string, string>>,
): Promise<ExecResult> {
  const { input = "", timeoutMs = 120_000, check = true } = options;
  const child = start(argv, options, env);
  const command = argv.slice(argv.indexOf("--") + 1).join(" ");
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    killInside(child, "SIGKILL").catch(() => child.kill("SIGKILL"));
  }, timeoutMs);
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  const exitCode = await new Promise<number>((done, fail) => {
    child.once("error", fail);
    child.once("close", (code) => done(code ?? -1));
  });
  clearTimeout(timer);
  if (late) throw new Error(`${command}: not within ${timeoutMs} ms\n${stdout}${stderr}`);
  if (check && exitCode !== 0) throw new Error(`${command}: exit code ${exitCode}\n${stdout}${stderr}`);
  return { stdout, stderr, exitCode };
}

function start(
  [file = "", ...args]: readonly string[],
  options: ExecOptions,
  env: Readonly<Record<string, string>>,
): ChildProcessWithoutNullStreams {
  return spawn(file, args, { env: { ...process.env, ...env, ...options.env } });
}

function follow(child: ChildProcessWithoutNullStreams): LabProcess {
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) collectLines(stream, lines);
  const exited = new Promise<number>((done) => child.once("close", (code) => done(code ?? -1)));
  return {
    lines,
    stdin: child.stdin,
    exited,
    waitForLine: (pattern, timeoutMs = SOON_MS) =>
      until(
        () => `a line like ${String(pattern)} among:\n${lines.slice(-20).join("\n")}`,
        () => lines.find((line) => pattern.test(line)),
        timeoutMs,
      ),
    kill: (signal) => killInside(child, signal),
  };
}

/**
 * Signals the program behind nsenter; killing nsenter alone would leave it running, and its pipes open.
 *
 * nsenter stops itself, a moment later, when its program is stopped, and wakes its program when it is woken (util-linux,
 * nsenter.c, continue_as_child). So it is nsenter that is woken, and the program's waking is waited for: nsenter's late
 * SIGCONT would undo the next SIGSTOP.
 */
async function killInside(nsenter: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (nsenter.exitCode !== null || nsenter.signalCode !== null) return;
  const outside = nsenter.pid ?? 0;
  const inside = await childOf(outside);
  if (signal === "SIGCONT") {
    nsenter.kill(signal);
    await until("the program goes on", async () => !(await isStopped(inside)));
    return;
  }
  process.kill(inside, signal);
  if (signal === "SIGSTOP") await until("nsenter has stopped too", () => isStopped(outside));
}

async function isStopped(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2).startsWith("T");
}

function collectLines(stream: NodeJS.ReadableStream, lines: string[]): void {
  let rest = "";
  stream.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
}

/**
 * Repeats the probe until it returns something.
 * @param what the test waits for; a function when the error is to show the state at the timeout
 * @throws with `what` at the timeout
 */
export async function until<T>(
  what: string | (() => string),
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs: number = SOON_MS,
): Promise<T> {
  const endsAt = Date.now() + timeoutMs;
  for (;;) {
    const askedAt = Date.now();
    const answer = await probe();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > endsAt)
      throw new Error(`not within ${timeoutMs} ms: ${typeof what === "string" ? what : what()}`);
    // The pause is as long as the probe took: a probe that runs programs leaves half of the time to the daemon.
    await new Promise((done) => setTimeout(done, Math.max(POLL_MS, Date.now() - askedAt)));
  }
}

/** Interval in which the daemon reads and publishes a change, unless the machine is slow. */
const PUBLISHED_MS = 150;

/**
 * Waits for a status of the running daemon that stays: the first may be from before the test's last step. Where the state
 * held before that step, the test waits for the effect of the step first, or reloads.
 * @throws with `what`, and the last status, when it does not hold in time
 */
export async function untilStatus(
  what: string,
  lab: Lab,
  holds: (status: DaemonStatus) => boolean,
  timeoutMs?: number,
): Promise<void> {
  let last: DaemonStatus | undefined;
  const holdsNow = async (): Promise<boolean> => {
    last = await readStatusFile(lab);
    return last !== undefined && holds(last);
  };
  await until(
    () => `${what}; last status: ${JSON.stringify(last)}`,
    async () => {
      if (!(await holdsNow())) return false;
      await new Promise((done) => setTimeout(done, PUBLISHED_MS));
      return holdsNow();
    },
    timeoutMs,
  );
}

/**
 * Reads what `kvmnatd status` starts from; starting that program in each poll costs more than all else in most tests.
 * @returns undefined when no daemon runs, or the one that runs has written none
 */
export async function readStatusFile(lab: Lab): Promise<DaemonStatus | undefined> {
  const text = await readFile(join(lab.dir, "run/status.json"), "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  const status = JSON.parse(text) as DaemonStatus;
  const stat = await readFile(`${lab.root}/proc/${status.pid}/stat`, "utf8").catch(() => "");
  return processStart(stat) === status.startTicks ? status : undefined;
}

/** @param stat `/proc/PID/stat`, proc(5): the start is field 22, and field 2 may hold blanks and parentheses */
function processStart(stat: string): string | undefined {
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
}

/** A line of the daemon's log. */
export interface LogLine {
  /** pino's: 30 info, 40 warn, 50 error. */
  readonly level: number;
  /** Epoch ms. */
  readonly time: number;
  readonly msg: string;
  readonly event: string;
  readonly guest?: string;
  readonly rule?: string;
  readonly action?: "add" | "remove";
  readonly pass?: number;
  readonly reason?: string;
}

export interface Daemon extends LabProcess {
  log(): readonly LogLine[];
  /** SIGTERM, and its exit code. */
  stop(): Promise<number>;
}

/** @param options of `kvmnatd run`, e.g. `-c FILE`. @returns when it has said that it starts */
export async function startDaemon(
  lab: Lab,
  options: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Daemon> {
  const child = lab.spawn([process.execPath, PROGRAM, "run", ...options], { env });
  const daemon: Daemon = {
    ...child,
    log: () => child.lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line) as LogLine),
    stop: async () => {
      await child.kill("SIGTERM");
      return child.exited;
    },
  };
  await child.waitForLine(/"event":"start"/);
  return daemon;
}

/** Writes a file that root alone can write, in one step. */
export async function writeConfig(lab: Lab, text: string, name = "kvmnatd.yaml"): Promise<string> {
  const file = join(lab.dir, name);
  await writeFile(file, text, { mode: 0o600 });
  return file;
}
