import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createPodman } from "../support/podman.ts";
import type { Podman } from "../support/podman.ts";

const IMAGE = "kvmnatd-test";
const INSTALLED = "node_modules/.kvmnatd-lock";
/** Some of each kind; all of them would take as long as the run that this is part of. */
const SOME = ["test/unit/config/schema", "test/property/dnat", "test/scenarios", "test/kernel/commands/co"];
const LONG_MS = 15 * 60_000;

describe("Dockerfile.test", { timeout: LONG_MS }, () => {
  let podman: Podman;

  beforeAll(async () => {
    podman = await createPodman();
  }, LONG_MS);
  afterAll(() => podman.close());

  it("is built", async () => {
    expect(await podman.build("Dockerfile.test", IMAGE)).toContain(`Successfully tagged localhost/${IMAGE}`);
  });

  it("has its own npm packages, and only the source of this folder", async () => {
    const script = `ls -A; stat --format=%Y ${INSTALLED}`;
    const lines = (await podman.run(IMAGE, ["sh", "-ec", script])).stdout.split("\n");
    const { mtimeMs } = await stat(resolve(import.meta.dirname, "../..", INSTALLED));
    expect(lines).toEqual(expect.arrayContaining(["node_modules", "src", "test"]));
    for (const each of [".git", "dist", `${Math.floor(mtimeMs / 1000)}`]) expect(lines).not.toContain(each);
  });

  it("runs the tests and skips none", async () => {
    const { stdout, stderr, exitCode } = await podman.run(IMAGE, ["npm", "test", "--", ...SOME]);
    expect(exitCode, `${stdout}${stderr}`).toBe(0);
    expect(stdout).toMatch(/^ *Test Files +(\d+) passed \(\1\)$/m);
    expect(stdout).toMatch(/^ *Tests +(\d+) passed \(\1\)$/m);
    for (const each of SOME) expect(stdout).toContain(` ${each}`);
  });
});
