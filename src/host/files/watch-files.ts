import { access, constants, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { watch } from "chokidar";
import type { FSWatcher } from "chokidar";
import { errnoOf } from "../../errors.ts";

export interface Watched {
  /** Everything directly in these folders counts. */
  readonly folders: readonly string[];
  readonly file: string;
}

export interface FileWatcher {
  /** A file in a folder, or the file, has changed. A call may come before the last change: read a second time later. */
  readonly onChange: (path: string) => void;
  /** Why not everything is watched; undefined when it is: changes until then may have been missed. */
  readonly onState: (fault: string | undefined) => void;
}

/** Interval between checks whether a path is still the same file: a watch ends with its file. */
const POLL_MS = 1000;
/** Interval between attempts to make a watch that failed. */
const RETRY_MS = 2000;

interface Opened {
  readonly watcher: FSWatcher;
  /** Identity of what is watched; undefined: nothing was there. */
  readonly id: string | undefined;
  readonly openedAtMs: number;
}

/**
 * Watches folders and a file. None of them need exist yet, and each may be replaced, or be reached by links that are
 * changed later.
 * @param pollMs for tests
 * @returns what ends the watch
 */
export function watchFiles(
  { folders, file }: Watched,
  { onChange, onState }: FileWatcher,
  pollMs: number = POLL_MS,
): () => Promise<void> {
  const paths = [...folders, file];
  const state = createWatchState(paths.length, onState);
  const opened = new Map<string, Opened>();
  const onEvent = (path: string): void => {
    if (isRelevant(path, { folders, file })) onChange(path);
  };

  async function open(path: string, id: string | undefined): Promise<void> {
    await opened.get(path)?.watcher.close();
    const watcher = openWatcher(path, file, onEvent);
    state.follow(path, watcher);
    opened.set(path, { watcher, id, openedAtMs: performance.now() });
  }

  async function reopenChanged(): Promise<void> {
    for (const [path, known] of opened) {
      const id = await readIdentity(path);
      const isSame = known.id === id;
      const isDue = state.isFaulty(path) && performance.now() - known.openedAtMs >= RETRY_MS;
      if (isSame && !isDue) continue;
      await open(path, id);
      if (!isSame) onChange(path);
    }
  }

  // The identity is read before the watch begins: a file that is made in between is another one at the next poll.
  let turn = (async () => {
    for (const path of paths) await open(path, await readIdentity(path));
  })();
  const poll = setInterval(() => void (turn = turn.then(reopenChanged)), pollMs);
  return async () => {
    clearInterval(poll);
    await turn;
    await Promise.all([...opened.values()].map(({ watcher }) => watcher.close()));
  };
}

/** libvirt writes X.new and renames it to X: only the second is news. */
function isRelevant(path: string, { folders, file }: Watched): boolean {
  return path === file || (!path.endsWith(".new") && folders.some((folder) => path.startsWith(`${folder}/`)));
}

/** Watches a folder instead of its files: libvirt renames a new file over the old one. */
function openWatcher(path: string, file: string, onEvent: (path: string) => void): FSWatcher {
  const watcher = watch(path, { depth: 0, ignoreInitial: true, atomic: false, ignorePermissionErrors: true });
  watcher.on("all", (_event, changed) => onEvent(changed));
  // The kernel's own events as well: chokidar 6 does not report a file that is replaced by a folder.
  watcher.on("raw", (_event, name, details) => {
    const { watchedPath } = details as { readonly watchedPath?: string };
    if (watchedPath === file) onEvent(file);
    else if (watchedPath !== undefined) onEvent(join(watchedPath, basename(String(name))));
  });
  return watcher;
}

interface WatchState {
  follow(path: string, watcher: FSWatcher): void;
  isFaulty(path: string): boolean;
}

/** Reports a fault when it is new, and the good state first when all paths are watched. */
function createWatchState(pathCount: number, onState: (fault: string | undefined) => void): WatchState {
  const faults = new Map<string, string>();
  const begun = new Set<string>();
  let reported: { readonly fault: string | undefined } | undefined;

  function report(): void {
    const [fault] = faults.values();
    const hasBegun = begun.size === pathCount;
    if (fault === reported?.fault && (reported !== undefined || !hasBegun)) return;
    reported = { fault };
    onState(fault);
  }

  return {
    follow: (path, watcher) => {
      let isWell = true;
      watcher.on("error", (error) => {
        isWell = false;
        faults.set(path, describeFault(path, error));
        report();
      });
      watcher.on("ready", () => {
        if (isWell) faults.delete(path);
        begun.add(path);
        report();
      });
    },
    isFaulty: (path) => faults.has(path),
  };
}

const LIMITS: Readonly<Record<string, string>> = {
  ENOSPC: "raise fs.inotify.max_user_watches",
  EMFILE: "raise fs.inotify.max_user_instances, or the limit of open files",
};

function describeFault(path: string, error: unknown): string {
  const code = errnoOf(error);
  const advice = LIMITS[code ?? ""];
  return `${path} cannot be watched (${code ?? String(error)})${advice === undefined ? "" : `: ${advice}`}`;
}

/** @returns which folder or file is at this path, at the end of all links; undefined: none that may be read */
async function readIdentity(path: string): Promise<string | undefined> {
  try {
    const { dev, ino } = await stat(path);
    // One that may not be read cannot be watched, and no event reports when it may.
    await access(path, constants.R_OK);
    return `${dev}:${ino}`;
  } catch (error) {
    if (errnoOf(error) !== undefined) return undefined;
    throw error;
  }
}
