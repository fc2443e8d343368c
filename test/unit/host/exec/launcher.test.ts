import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { array, assert, asyncProperty, constantFrom, oneof, string } from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { CommandError } from "../../../../src/errors.ts";
import { createLauncher } from "../../../../src/host/exec/launcher.ts";
import type { Launcher } from "../../../../src/host/exec/launcher.ts";

let launcher: Launcher;

const LAUNCHER = resolve(import.meta.dirname, "../../../../src/host/exec/launcher.ts");

const withoutZero = (text: string): string => text.replaceAll("\0", "");
/** The shell drops line ends at the end of standard error. */
const withoutEnd = (text: string): string => text.replace(/\n*$/, "");

const sh = (script: string, ...words: readonly string[]): Promise<{ stdout: string; stderr: string }> =>
  launcher.run(["/bin/sh", "-c", script, "sh", ...words]);

const failure = async (running: Promise<unknown>): Promise<CommandError> => {
  const error = await running.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ name: "CommandError" });
  return error as CommandError;
};

/** `sh` of Debian and of Fedora. */
describe.each(["dash", "bash"])("the launcher with %s", (name) => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "kvmnatd-sh-"));
    await symlink(`/bin/${name}`, join(folder, "sh"));
    vi.stubEnv("PATH", `${folder}:${process.env["PATH"] ?? ""}`);
    launcher = createLauncher();
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await rm(folder, { recursive: true });
  });

  it("passes arguments and input unchanged, and returns both outputs", async () => {
    const special = [
      "'",
      '"',
      "\\",
      "$",
      "`",
      "!",
      "#",
      "&",
      ";",
      "<",
      ">",
      "(",
      ")",
      "*",
      "\n",
      "\t",
      " ",
      "\nEOF\n",
      "\\'",
    ];
    const piece = oneof(constantFrom(...special), string({ unit: "grapheme-ascii", maxLength: 5 }));
    const text = array(piece, { maxLength: 12 }).map((pieces) => pieces.join(""));
    // Other bytes than plain ASCII are started without the shell.
    const word = oneof({ weight: 9, arbitrary: text }, string({ unit: "binary" })).map(withoutZero);
    await assert(
      asyncProperty(word, word, constantFrom(0, 4000, 5000), async (argument, said, length) => {
        const input = `${said}${"x".repeat(length)}\n`;
        const done = await launcher.run(["/bin/sh", "-c", 'cat; printf %s "$1" >&2', "sh", argument], {
          input,
        });
        expect([done.stdout, withoutEnd(done.stderr)]).toEqual([input, withoutEnd(argument)]);
      }),
      { numRuns: 100 },
    );
  });

  it("gives a program empty input when there is none", async () => {
    expect(await sh("cat; echo end")).toEqual({ stdout: "end\n", stderr: "" });
  });

  it("runs more programs at a time than it has outputs, each with its own output", async () => {
    const all = Array.from({ length: 60 }, (_, index) => `${index}`);
    const script = 'for i in $(seq 50); do echo "$1"; done; echo "$1" >&2';
    const done = await Promise.all(all.map((word) => sh(script, word)));
    const isOwn = (word: string, index: number): boolean =>
      done[index]?.stdout === `${word}\n`.repeat(50) && done[index].stderr.trim() === word;
    expect(all.filter((word, index) => !isOwn(word, index))).toEqual([]);
  });

  it("returns a large output", async () => {
    const { stdout } = await sh("seq 1000000");
    expect(stdout).toHaveLength(6_888_896);
    expect(stdout.endsWith("\n1000000\n")).toBe(true);
  });

  it("reports how a program failed", async () => {
    const failed = await failure(launcher.run(["/bin/sh", "-c", "echo no >&2; exit 3"], { input: "x" }));
    expect(failed).toMatchObject({ exitCode: 3, stderr: "no", isMissing: false });
    const missing = await failure(launcher.run(["nosuchprogram"]));
    expect(missing).toMatchObject({ isMissing: true, exitCode: undefined });
    expect(missing.message).toBe("nosuchprogram: not found; install the package nosuchprogram");
    const closed = await failure(launcher.run(["/etc/passwd"]));
    expect(closed.message).toBe("/etc/passwd: /etc/passwd: Permission denied (exit code 126)");
    const notItself = await failure(sh("echo host not found >&2; exit 127"));
    expect(notItself).toMatchObject({ isMissing: false, exitCode: 127 });
    expect(await failure(sh("exit 255"))).toMatchObject({ exitCode: 255 });
    const killed = await failure(sh("kill -9 $$"));
    expect(killed.exitCode).toBeUndefined();
    expect(killed.message).toContain("ended by signal 9");
    const garbled = await failure(sh("printf 'a\\0b\\0c'"));
    expect(garbled.message).toContain("printed a zero byte");
    await expect.poll(() => sh("echo well").catch(() => undefined)).toEqual({ stdout: "well\n", stderr: "" });
  });

  it("kills a program that ignores SIGTERM after the timeout, and runs the next one", async () => {
    const began = performance.now();
    const late = await failure(
      launcher.run(["sh", "-c", "trap '' TERM; sleep 4321 & wait"], { timeoutMs: 200 }),
    );
    expect(late.message).toMatch(/did not end within 0.2 s and was stopped$/);
    expect(performance.now() - began).toBeLessThan(5000);
    expect(await sh("echo well")).toEqual({ stdout: "well\n", stderr: "" });
    await expect.poll(commandLines).not.toContain("sleep 4321");
  });

  it("reports a program that SIGTERM to all processes of the service ended, and runs the next one", async () => {
    const ended = await failure(sh("kill 0; sleep 10"));
    expect(ended.message).toContain("ended by signal 15");
    expect(await sh("echo well")).toEqual({ stdout: "well\n", stderr: "" });
  });

  it("ends its programs when the process of the launcher exits", async () => {
    const script = `import { createLauncher } from ${JSON.stringify(LAUNCHER)};
      void createLauncher().run(["sleep", "4322"]).catch(() => undefined);
      setTimeout(() => process.exit(0), 300);`;
    await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", script]);
    await expect.poll(commandLines).not.toContain("sleep 4322");
  });

  it("reports a program that was killed because the one beside it exceeded its timeout", async () => {
    const late = failure(launcher.run(["sleep", "50"], { timeoutMs: 300 }));
    const other = await failure(launcher.run(["sleep", "40"]));
    expect(other.message).toBe("sleep 40: stopped together with sleep 50, which did not end within 0.3 s");
    expect((await late).message).toBe("sleep 50: did not end within 0.3 s and was stopped");
  });

  it("returns the output of a program that outlives the shell, and runs the next one", async () => {
    const killer = sh("kill -9 $(ps -o sid= $$); sleep 0.3; echo done");
    // Programs fail until the end of the shell is known.
    await expect.poll(() => sh("echo well").catch(() => undefined)).toEqual({ stdout: "well\n", stderr: "" });
    expect((await killer).stdout).toBe("done\n");
  });

  it("reports a program that was killed together with the shell, and runs the next one", async () => {
    const failed = await failure(sh("kill -9 0"));
    expect(failed.message).toContain("the shell that starts programs ended");
    expect(await sh("echo well")).toEqual({ stdout: "well\n", stderr: "" });
  });

  it("leaves no zombie behind", async () => {
    await Promise.all(Array.from({ length: 20 }, () => sh("exit 0")));
    await expect.poll(ownZombies).toEqual([]);
  });
});

async function processes(file: string): Promise<readonly string[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  return Promise.all(pids.map((pid) => readFile(`/proc/${pid}/${file}`, "utf8").catch(() => "")));
}

async function commandLines(): Promise<readonly string[]> {
  return (await processes("cmdline")).map((line) => line.replaceAll("\0", " ").trim());
}

/** Ended children of the launcher's shell. */
async function ownZombies(): Promise<readonly string[]> {
  const parsed = (await processes("stat")).map((stat) => /^(\d+) .*\) (.) (\d+) /.exec(stat)?.slice(1) ?? []);
  const shells = new Set(parsed.filter(([, , parent]) => parent === `${process.pid}`).map(([pid]) => pid));
  return parsed.flatMap(([pid = "", state, parent]) => (state === "Z" && shells.has(parent) ? [pid] : []));
}
