import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterEach, beforeEach, expect, it } from "vitest";
import { watchFiles } from "../../../../src/host/files/watch-files.ts";

let parent: string;
beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), "kvmnatd-watch-"));
});
afterEach(() => rm(parent, { recursive: true }));

it("a folder that is made just when the watch begins is watched", async () => {
  const changed = new Set<string>();
  const stops: (() => Promise<void>)[] = [];
  const folders = Array.from({ length: 24 }, (_, index) => join(parent, `${index}`));
  for (const [index, folder] of folders.entries()) {
    const watched = { folders: [folder], file: join(parent, "config") };
    stops.push(
      watchFiles(
        watched,
        (path) => changed.add(path),
        () => undefined,
      ),
    );
    await setTimeout(index % 4);
    await mkdir(folder);
  }
  // By then it has been looked at whether each is still what is watched.
  await setTimeout(2500);
  const unheard = (): readonly string[] =>
    folders.filter((folder) => !changed.has(`${folder}/virbr0.status`));
  await expect
    .poll(async () => {
      // On a busy machine it looks later.
      for (const folder of unheard()) {
        await writeFile(`${folder}/virbr0.status.new`, "[]");
        await rename(`${folder}/virbr0.status.new`, `${folder}/virbr0.status`);
      }
      return unheard();
    })
    .toEqual([]);
  await Promise.all(stops.map((stop) => stop()));
});

it("says once when all is watched: what happened until then may have been missed", async () => {
  const states: (string | undefined)[] = [];
  const stop = watchFiles(
    { folders: [parent, join(parent, "missing")], file: join(parent, "config") },
    () => undefined,
    (fault) => states.push(fault),
  );
  await expect.poll(() => states).toEqual([undefined]);
  await setTimeout(1500);
  expect(states).toEqual([undefined]);
  await stop();
});
