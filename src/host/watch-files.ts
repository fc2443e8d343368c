import { watch } from "chokidar";

/**
 * Calls `onChange` with a path whenever something in the folders, or one of the files, changes. A path need not exist
 * yet; it is waited for. An event may come before the file's last change: the caller looks a second time.
 * @returns what ends the watch
 */
export function watchFiles(
  paths: readonly string[],
  onChange: (path: string) => void,
  onError: (error: unknown) => void,
): () => Promise<void> {
  // Folders, not files: libvirt renames a new file over the old one, and a watch on a file dies with its inode.
  const watcher = watch([...paths], {
    depth: 0,
    ignoreInitial: true,
    atomic: false,
    ignorePermissionErrors: true,
  });
  watcher.on("all", (_event, path) => onChange(path));
  watcher.on("error", onError);
  return () => watcher.close();
}
