import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterEach, beforeEach, expect, it } from "vitest";
import { watchFiles } from "../../../../src/host/files/watch-files.ts";

const POLL_MS = 50;
const IGNORE = { onChange: () => undefined, onState: () => undefined };
let parent: string;
beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), "kvmnatd-watch-"));
});
afterEach(() => rm(parent, { recursive: true }));

it("watches a folder that is made while its watch begins", async () => {
  const changed = new Set<string>();
  const onChange = (path: string): void => void changed.add(path);
  const stops: (() => Promise<void>)[] = [];
  const folders = Array.from({ length: 24 }, (_, index) => join(parent, `${index}`));
  for (const [index, folder] of folders.entries()) {
    const watched = { folders: [folder], file: join(parent, "config") };
    stops.push(watchFiles(watched, { ...IGNORE, onChange }, POLL_MS));
    await setTimeout(index % 4);
    await mkdir(folder);
  }
  // Each folder is reported itself once a poll has found it.
  await expect.poll(() => folders.filter((folder) => !changed.has(folder))).toEqual([]);
  const missed = (): readonly string[] => folders.filter((folder) => !changed.has(`${folder}/virbr0.status`));
  await expect
    .poll(async () => {
      for (const folder of missed()) {
        await writeFile(`${folder}/virbr0.status.new`, "[]");
        await rename(`${folder}/virbr0.status.new`, `${folder}/virbr0.status`);
      }
      return missed();
    })
    .toEqual([]);
  await Promise.all(stops.map((stop) => stop()));
});

it("reports once that everything is watched, when all watches have begun", async () => {
  const states: (string | undefined)[] = [];
  const changed: string[] = [];
  const missing = join(parent, "missing");
  const watched = { folders: [parent, missing], file: join(parent, "config") };
  const watcher = {
    onState: (fault: string | undefined) => states.push(fault),
    onChange: (path: string) => changed.push(path),
  };
  const stop = watchFiles(watched, watcher, POLL_MS);
  await expect.poll(() => states).toEqual([undefined]);
  await setTimeout(4 * POLL_MS);
  // A poll finds the folder, so polls were made after the first report.
  await mkdir(missing);
  await expect.poll(() => changed).toContain(missing);
  expect(states).toEqual([undefined]);
  await stop();
});
