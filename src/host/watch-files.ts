import { basename, join } from "node:path";
import { watch } from "chokidar";

export interface Watched {
  /** Everything directly in these counts. */
  readonly folders: readonly string[];
  readonly file: string;
}

/**
 * Calls `onChange` with a path whenever something changes in the folders, or the file does. None of them need exist
 * yet; they are waited for. A call may come before the last change: the caller looks a second time.
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
  // Folders, not files: libvirt renames a new file over the old one, and a watch on a file dies with its inode.
  const watcher = watch([...folders, file], {
    depth: 0,
    ignoreInitial: true,
    atomic: false,
    ignorePermissionErrors: true,
  });
  watcher.on("all", (_event, path) => tell(path));
  // The kernel's own events as well: chokidar 6 tells nothing of a file that is replaced by a folder.
  watcher.on("raw", (_event, name, details) => {
    const { watchedPath } = details as { readonly watchedPath?: string };
    if (watchedPath === file) tell(file);
    else if (watchedPath !== undefined) tell(join(watchedPath, basename(String(name))));
  });
  watcher.on("error", onError);
  return () => watcher.close();
}
