import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { watch } from "chokidar";
import type { FSWatcher } from "chokidar";
import { errnoOf } from "./run-command.ts";

export interface Watched {
  /** Everything directly in these counts. */
  readonly folders: readonly string[];
  readonly file: string;
}

/** How often to look whether a path is still what is watched: a watch dies with it, or never began. */
const POLL_MS = 500;

/**
 * Calls `onChange` with a path whenever something changes in the folders, or the file does. None of them need exist
 * yet, and each may be deleted and made anew, or be reached by links that lead elsewhere later: it is looked for. A call may
 * come before the last change: the caller looks a second time.
 * @returns what ends the watch
 */
export function watchFiles(
  { folders, file }: Watched,
  onChange: (path: string) => void,
  onError: (error: unknown) => void,
): () => Promise<void> {
  const counts = (path: string): boolean =>
    // libvirt writes X.new and renames it to X: only the second is news.
    !path.endsWith(".new") && (path === file || folders.some((folder) => path.startsWith(`${folder}/`)));
  const tell = (path: string): void => {
    if (counts(path)) onChange(path);
  };
  const open = (path: string): FSWatcher => {
    // Folders, not files: libvirt renames a new file over the old one, and a watch on a file dies with its inode.
    const watcher = watch(path, {
      depth: 0,
      ignoreInitial: true,
      atomic: false,
      ignorePermissionErrors: true,
    });
    watcher.on("all", (_event, changed) => tell(changed));
    // The kernel's own events as well: chokidar 6 tells nothing of a file that is replaced by a folder.
    watcher.on("raw", (_event, name, details) => {
      const { watchedPath } = details as { readonly watchedPath?: string };
      if (watchedPath === file) tell(file);
      else if (watchedPath !== undefined) tell(join(watchedPath, basename(String(name))));
    });
    watcher.on("error", onError);
    return watcher;
  };
  const opened = new Map<string, { readonly watcher: FSWatcher; readonly id: string | undefined }>();
  for (const path of [...folders, file]) opened.set(path, { watcher: open(path), id: undefined });

  async function reopenChanged(first: boolean): Promise<void> {
    for (const [path, known] of opened) {
      const id = await identify(path);
      if (known.id === id) continue;
      if (first) {
        opened.set(path, { ...known, id });
        continue;
      }
      await known.watcher.close();
      opened.set(path, { watcher: open(path), id });
      onChange(path);
    }
  }

  let turn = reopenChanged(true);
  const poll = setInterval(() => {
    turn = turn.then(() => reopenChanged(false)).catch(onError);
  }, POLL_MS);
  return async () => {
    clearInterval(poll);
    await turn;
    await Promise.all([...opened.values()].map(({ watcher }) => watcher.close()));
  };
}

/** Which folder or file stands at this path now, at the end of all links; undefined: none. */
async function identify(path: string): Promise<string | undefined> {
  try {
    const { dev, ino } = await stat(path);
    return `${dev}:${ino}`;
  } catch (error) {
    if (errnoOf(error) !== undefined) return undefined;
    throw error;
  }
}
