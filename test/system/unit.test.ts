import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, describe, expect, it } from "vitest";

const UNIT = resolve(import.meta.dirname, "../../systemd/kvmnatd.service");
const folder = mkdtempSync(join(tmpdir(), "kvmnatd-unit-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("the systemd unit", () => {
  it("is accepted by systemd when its program is installed", () => {
    // systemd checks that the program exists, so the copy names one that does.
    const file = join(folder, "kvmnatd.service");
    writeFileSync(file, readFileSync(UNIT, "utf8").replaceAll(/\/usr\/bin\/kvmnatd \w+/g, "/bin/true"));
    const { status, stdout, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", file], {
      encoding: "utf8",
    });
    // systemd 252 does not know the key, warns and continues.
    const output = (stdout + stderr).replaceAll(/.*Unknown key 'OpenFile'.*\n?/g, "");
    expect({ status, output }).toEqual({ status: 0, output: "" });
  });

  it("does not restart the daemon after a bad config", () => {
    expect(readFileSync(UNIT, "utf8")).toMatch(/^RestartPreventExitStatus=78$/m);
  });
});

describe("the built program", () => {
  const program = resolve(import.meta.dirname, "../../dist/kvmnatd.js");

  it("runs without node_modules", () => {
    const copy = join(folder, "kvmnatd");
    execFileSync("install", ["-m", "755", program, copy]);
    const { version } = JSON.parse(readFileSync(resolve(program, "../../package.json"), "utf8")) as {
      version: string;
    };
    expect(execFileSync(copy, ["--version"], { encoding: "utf8", cwd: folder }).trim()).toBe(version);
    writeFileSync(join(folder, "c.yaml"), "guests:\n  web: {ports: [1122:22]}\n");
    expect(
      execFileSync(copy, ["check", "-c", join(folder, "c.yaml")], { encoding: "utf8", cwd: folder }),
    ).toMatch(/valid/);
  });

  it("runs when its working folder has been deleted", () => {
    const script = `mkdir gone && cd gone && rmdir ../gone && exec ${process.execPath} ${program} check -c ${folder}/c.yaml`;
    expect(execFileSync("sh", ["-c", script], { encoding: "utf8", cwd: folder })).toMatch(/valid/);
  });

  it("exits 70 and reports a bug after an unhandled rejection", () => {
    const bug =
      'const timer = setInterval(() => { if (process.listenerCount("uncaughtException") === 0) return; ' +
      'clearInterval(timer); void Promise.reject(new Error("nobody waits")); }, 1)';
    const args = ["--import", `data:text/javascript,${bug}`, program, "check", "-c", join(folder, "c.yaml")];
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
    expect(stderr).toMatch(/^kvmnatd: this is a bug, please report it: Error: nobody waits\n +at /);
    expect(status).toBe(70);
  });

  it.each([
    ["no command", [], 64],
    ["an unknown command", ["rum"], 64],
    ["an unknown option", ["plan", "--jason"], 64],
    ["status --watch with --json", ["status", "--watch", "--json"], 64],
    ["an extra argument", ["check", "extra"], 64],
    ["an unknown shell", ["completion", "tcsh"], 64],
    ["--help", ["--help"], 0],
    ["help of a command", ["help", "plan"], 0],
    ["--version", ["--version"], 0],
    ["schema", ["schema"], 0],
    ["schema of the status", ["schema", "status"], 0],
    ["an unknown schema", ["schema", "rules"], 64],
    ["completion", ["completion", "bash"], 0],
  ])("exits with the right code for %s", (_what, args, expected) => {
    expect(spawnSync(process.execPath, [program, ...args]).status).toBe(expected);
  });

  it("writes a long output completely into a pipe", () => {
    const schema = execFileSync("sh", ["-c", `${process.execPath} ${program} schema | cat`], {
      encoding: "utf8",
    });
    expect(JSON.parse(schema)).toMatchObject({ type: "object" });
  });
});
