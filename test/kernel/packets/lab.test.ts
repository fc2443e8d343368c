import { spawn } from "node:child_process";
import { access, readFile, rm } from "node:fs/promises";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { expect, it } from "vitest";
import { until } from "../../support/lab.ts";

const LAB = resolve(import.meta.dirname, "../../support/lab.ts");

/** Prints the pid, on this machine, of a program in its lab, and the folder of the lab's files. */
const RUNNER = `
import { readFile } from "node:fs/promises";
import { createLab } from ${JSON.stringify(LAB)};
const lab = await createLab();
lab.spawn(["sleep", "1000"]);
console.log(JSON.stringify({ dir: lab.dir, incumbent: Number(lab.enter[2]) }));
`;

async function isAlive(pid: number): Promise<boolean> {
  return access(`/proc/${pid}/ns/net`).then(
    () => true,
    () => false,
  );
}

it("a lab ends with the test run and is isolated from this machine", async () => {
  const runner = spawn(process.execPath, ["--input-type=module", "-e", RUNNER], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const { value } = await createInterface({ input: runner.stdout })[Symbol.asyncIterator]().next();
  const { dir, incumbent } = JSON.parse(String(value)) as {
    readonly dir: string;
    readonly incumbent: number;
  };
  expect(await isAlive(incumbent)).toBe(true);
  const mounts = await readFile("/proc/self/mounts", "utf8");
  expect(mounts).not.toContain(dir);

  runner.kill("SIGKILL");
  await until("the lab's first process is gone", async () => !(await isAlive(incumbent)));
  // A killed run cannot remove its files.
  await rm(dir, { recursive: true });
});
