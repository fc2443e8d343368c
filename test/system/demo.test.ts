import { spawn, spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { until } from "../support/lab.ts";

const PROGRAM = resolve(import.meta.dirname, "../../dist/kvmnatd.js");

/** Processes of a demo, as seen from outside its namespaces. */
function leftovers(): readonly string[] {
  const { stdout } = spawnSync("pgrep", ["-af", `${PROGRAM} demo`], { encoding: "utf8" });
  return stdout.split("\n").filter((line) => line !== "" && !line.includes("pgrep"));
}

describe("kvmnatd demo", () => {
  it("plays the whole story and reports success", () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, "demo"], { encoding: "utf8" });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toMatch(
      /198\.51\.100\.1:1122: devstack, port 22, at 192\.168\.122\.57; you are 198\.51\.100\.2/,
    );
    expect(stdout).toMatch(/iptables-save is what it was/);
    expect(leftovers()).toEqual([]);
  });

  it.each([
    ["SIGINT", 130, /1\. kvmnatd starts/],
    ["SIGTERM", 143, /2\. The guest boots/],
    ["SIGKILL", null, /3\. The guest gives/],
  ] as const)("%s in the middle leaves nothing behind", async (signal, expected, moment) => {
    const before = readdirSync("/run");
    const demo = spawn(process.execPath, [PROGRAM, "demo"]);
    let said = "";
    demo.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const ended = new Promise<number | null>((done) => demo.once("close", done));
    await until(`the demo says ${String(moment)}`, () => moment.test(said));
    demo.kill(signal);
    expect(await ended).toBe(expected);
    expect(said.endsWith("Nothing of it is left on this machine.\n")).toBe(signal !== "SIGKILL");
    await until(`all its processes are gone`, () => leftovers().length === 0);
    expect(readdirSync("/run")).toEqual(before);
  });
});
