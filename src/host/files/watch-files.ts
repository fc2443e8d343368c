import { access, constants, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { watch } from "chokidar";
import type { FSWatcher } from "chokidar";
import { errnoOf } from "../../errors.ts";

export interface Watched {
  /** Everything directly in these counts. */
  readonly folders: readonly string[];
  readonly file: string;
}

/** How often to look whether a path is still what is watched: a watch dies with it, or never began. */
const POLL_MS = 1000;
/** How often a watch that could not be made is tried again. */
const RETRY_MS = 2000;

interface Opened {
  readonly watcher: FSWatcher;
  /** Of what is watched; undefined: nothing was there. */
  readonly id: string | undefined;
  readonly openedAtMs: number;
}

/**
 * Calls `onChange` with a path whenever something changes in the folders, or the file does. None of them need exist
 * yet, and each may be deleted and made anew, or be reached by links that lead elsewhere later: it is looked for. A call may
 * come before the last change: the caller looks a second time.
 * @param onState why not all of it is watched; undefined when it is: what happened until then may have been missed
 * @returns what ends the watch
 */
export function watchFiles(
  { folders, file }: Watched,
  onChange: (path: string) => void,
  onState: (fault: string | undefined) => void,
): () => Promise<void> {
  const counts = (path: string): boolean =>
    // libvirt writes X.new and renames it to X: only the second is news.
    path === file || (!path.endsWith(".new") && folders.some((folder) => path.startsWith(`${folder}/`)));
  const tell = (path: string): void => {
    if (counts(path)) onChange(path);
  };
  const opened = new Map<string, Opened>();
  const faults = new Map<string, string>();
  const begun = new Set<string>();
  let told: { readonly fault: string | undefined } | undefined;

  function tellState(): void {
    const [fault] = faults.values();
    const hasBegun = begun.size === folders.length + 1;
    if (fault === told?.fault && (told !== undefined || !hasBegun)) return;
    told = { fault };
    onState(fault);
  }

  function open(path: string, id: string | undefined): void {
    // libvirt renames a new file over the old one, so it is the folder that is watched; whether the config is another
    // file by now is looked for.
    const watcher = watch(path, {
      depth: 0,
      ignoreInitial: true,
      atomic: false,
      ignorePermissionErrors: true,
    });
    let isWell = true;
    watcher.on("all", (_event, changed) => tell(changed));
    // The kernel's own events as well: chokidar 6 tells nothing of a file that is replaced by a folder.
    watcher.on("raw", (_event, name, details) => {
      const { watchedPath } = details as { readonly watchedPath?: string };
      if (watchedPath === file) tell(file);
      else if (watchedPath !== undefined) tell(join(watchedPath, basename(String(name))));
    });
    watcher.on("error", (error) => {
      isWell = false;
      faults.set(path, explain(path, error));
      tellState();
    });
    watcher.on("ready", () => {
      if (isWell) faults.delete(path);
      begun.add(path);
      tellState();
    });
    opened.set(path, { watcher, id, openedAtMs: performance.now() });
  }

  /** Before it is watched: what is made in between is another one, which the next turn finds. */
  async function openAll(): Promise<void> {
    for (const path of [...folders, file]) open(path, await identify(path));
  }

  async function reopenChanged(): Promise<void> {
    for (const [path, known] of opened) {
      const id = await identify(path);
      const isSame = known.id === id;
      const isDue = faults.has(path) && performance.now() - known.openedAtMs >= RETRY_MS;
      if (isSame && !isDue) continue;
      await known.watcher.close();
      open(path, id);
      if (!isSame) onChange(path);
    }
  }

  let turn = openAll();
  const poll = setInterval(() => {
    turn = turn.then(reopenChanged);
  }, POLL_MS);
  return async () => {
    clearInterval(poll);
    await turn;
    await Promise.all([...opened.values()].map(({ watcher }) => watcher.close()));
  };
}

const LIMITS: Readonly<Record<string, string>> = {
  ENOSPC: "raise fs.inotify.max_user_watches",
  EMFILE: "raise fs.inotify.max_user_instances, or the limit of open files",
};

function explain(path: string, error: unknown): string {
  const code = errnoOf(error);
  const advice = LIMITS[code ?? ""];
  return `${path} cannot be watched (${code ?? String(error)})${advice === undefined ? "" : `: ${advice}`}`;
}

/** Which folder or file stands at this path now, at the end of all links; undefined: none that we may read. */
async function identify(path: string): Promise<string | undefined> {
  try {
    const { dev, ino } = await stat(path);
    // One that may not be read is not watched, and nobody tells when it may.
    await access(path, constants.R_OK);
    return `${dev}:${ino}`;
  } catch (error) {
    if (errnoOf(error) !== undefined) return undefined;
    throw error;
  }
}
