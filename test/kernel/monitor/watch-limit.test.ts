import { mkdir, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createLab } from "../../support/lab.ts";
import type { Lab } from "../../support/lab.ts";

const WATCH = resolve(import.meta.dirname, "../../support/watch.ts");
let lab: Lab;
beforeAll(async () => {
  lab = await createLab();
});
afterAll(() => lab.close());

it("reports that files are not watched without inotify watches, and watches them once there are some", async () => {
  const folder = join(lab.dir, "dnsmasq");
  const config = join(lab.dir, "kvmnatd.yaml");
  await mkdir(folder);
  await writeFile(config, "");
  const own = ["unshare", "--user", "--map-root-user", "--net"];
  const watches = lab.spawn([...own, process.execPath, WATCH, config, folder]);
  await watches.waitForLine(
    /^hint: files are not watched; .*cannot be watched \(ENOSPC\): raise fs\.inotify\.max_user_watches/,
  );
  // chokidar may report that it is ready before it reports the error: earlier lines do not count.
  const said = watches.lines.length;
  watches.stdin.write("1000\n");
  await expect.poll(() => watches.lines.slice(said)).toContain("hint: files are watched; all is heard");
  // Each path is reported once, although every watch is retried and they recover one by one.
  const told = watches.lines.filter((line) => line.startsWith("hint: files are not"));
  expect(told).toEqual([...new Set(told)]);
  await writeFile(join(folder, "virbr0.status"), "[]\n");
  await watches.waitForLine(/^hint: virbr0\.status; all is heard$/);
  await writeFile(config, "guests: {}\n");
  await watches.waitForLine(/^hint: config; all is heard$/);
});
