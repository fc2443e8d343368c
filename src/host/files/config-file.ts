import { open, stat } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import type { Diagnostic } from "../../diagnostic.ts";
import { createError, createWarning } from "../../diagnostic.ts";
import { ConfigError, errnoOf } from "../../errors.ts";
import type { ConfigFile } from "../../host-interface.ts";

const MAX_BYTES = 1024 * 1024;

/**
 * Reads the config's text and who may write it.
 * @throws ConfigError when there is no readable file of UTF-8 text
 */
export async function readConfigFile(file: string): Promise<ConfigFile> {
  try {
    await refusePipe(file);
    const handle = await open(file);
    try {
      const { mtimeMs, uid, gid, mode } = await handle.stat();
      return {
        text: decode(await readWhole(handle, file), file),
        changedAtMs: mtimeMs,
        untrusted: distrust(file, uid, gid, mode),
      };
    } finally {
      await handle.close();
    }
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    throw unusable(file, READ_FAULTS[code] ?? `cannot be read (${code})`);
  }
}

/** Opening a named pipe would wait for a writer; a shell's `<(...)` and standard input have one already. */
async function refusePipe(file: string): Promise<void> {
  const ready = /^\/(dev|proc)\//.test(file);
  if (!ready && (await stat(file)).isFIFO()) throw unusable(file, "is a named pipe; the config is a file");
}

/** Works also for a pipe or a device, which has no size and perhaps no end. */
async function readWhole(handle: FileHandle, file: string): Promise<Uint8Array> {
  const buffer = new Uint8Array(MAX_BYTES + 1);
  let length = 0;
  for (;;) {
    const { bytesRead } = await handle.read(buffer, length, buffer.length - length, null);
    length += bytesRead;
    if (length > MAX_BYTES) throw unusable(file, "is larger than 1 MiB; no config is");
    if (bytesRead === 0) return buffer.subarray(0, length);
  }
}

const READ_FAULTS: Readonly<Record<string, string>> = {
  ENOENT: "does not exist; copy config.example.yaml there, or name another file with --config",
  EISDIR: "is a directory; the config is a file",
  EACCES: "cannot be read: permission denied; run as root or give kvmnatd's user the right to read it",
};

function decode(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    if (error instanceof TypeError) throw unusable(file, "is not UTF-8 text; save it as UTF-8");
    throw error;
  }
}

/** The rule of sudo and cron: a user that can write the file controls root's firewall. */
function distrust(file: string, uid: number, gid: number, mode: number): Diagnostic<string> | undefined {
  const fault =
    uid !== 0
      ? `belongs to user ${uid}, not to root; run \`chown root ${file}\``
      : (mode & 0o002) !== 0
        ? `is writable by everyone; run \`chmod o-w ${file}\``
        : (mode & 0o020) !== 0 && gid !== 0
          ? `is writable by group ${gid}; run \`chmod g-w ${file}\``
          : undefined;
  return fault === undefined ? undefined : createWarning("config-untrusted", fault, { file });
}

function unusable(file: string, message: string): ConfigError {
  const issue: Diagnostic<string> = createError("config-file", message, { file });
  return new ConfigError(`${file}: ${message}`, [issue], "");
}
