import { formatDiagnostics } from "../config/code-frame.ts";
import type { DaemonStatus } from "../status/status.ts";
import type { DaemonIdentity } from "../daemon/publisher.ts";
import { ConfigError, EXIT, KvmnatdError } from "../errors.ts";
import { createHost } from "../host/create-host.ts";
import type { LocalHost } from "../host/create-host.ts";
import { readStatus } from "../host/files/status-file.ts";
import { chooseFormat, createLogger } from "../host/log/logger.ts";
import type { LogFormat } from "../host/log/logger.ts";
import { readStat } from "../host/network/proc.ts";
import { createServiceManager, inheritSockets } from "../host/systemd/notify.ts";
import { VERSION } from "../version.ts";
import type { Context } from "./context.ts";
import { leaveRules } from "./leave-rules.ts";
import { startServices } from "./services.ts";
import type { Services, Surroundings } from "./services.ts";
import { setProcessName } from "../host/exec/process-name.ts";

/** `kvmnatd run`: runs the daemon until the signal. */
export async function run(context: Context, signal: AbortSignal): Promise<number> {
  const { paths } = context;
  let services: Services | undefined;
  // `systemctl reload` may send SIGHUP at once; without a listener it would end the process.
  const onHangup = (): void => services?.loop.hint("SIGHUP", "signal");
  process.on("SIGHUP", onHangup);
  const sockets = inheritSockets(process.env, process.pid);
  const manager = createServiceManager(process.env, sockets, process.pid);
  const before = await readStatus(paths.runtimeDir);
  const local = createHost(paths);
  await lockRuntimeDir(local, paths.runtimeDir, before);
  const identity = identify(paths.config);
  await setProcessName("kvmnatd");
  const format = chooseFormat(process.env, process.stdout.isTTY);
  const { color } = context;
  const onProblem = (): void => services?.loop.hint("log");
  const logger = createLogger({ format, level: "info", color, journalFd: sockets.journal, onProblem });
  logger.log({ level: "info", event: "start", message: `kvmnatd ${VERSION} starts with ${paths.config}` });
  const surroundings: Surroundings = { paths, local, logger, manager, identity, before };
  try {
    services = await startServices(surroundings);
    await Promise.race([services.loop.run(signal), services.failed]);
    manager.stopping();
    const left = await leaveRules(local, logger, services.onStop(), services.usedVariants);
    logger.log({ level: "info", event: "stop", message: `kvmnatd stops; ${left}` });
    return EXIT.ok;
  } catch (error) {
    return handleFailure(error, format, surroundings);
  } finally {
    process.off("SIGHUP", onHangup);
    // The log is written even when a service cannot be stopped.
    try {
      await services?.stop();
    } finally {
      await logger.flush();
    }
  }
}

/**
 * Handles any failure of `run`: logs a config error.
 * @throws the error again where `main` must print it: every other error, and a config error that the log does not show
 */
function handleFailure(error: unknown, format: LogFormat, { logger, manager }: Surroundings): number {
  // On a terminal `main` prints the code frame.
  if (!(error instanceof ConfigError) || format === "pretty") throw error;
  const text = formatDiagnostics(error.diagnostics, error.source, { color: false });
  const message = `${text}\nkvmnatd ends; rules that are there stay`;
  logger.log({ level: "error", event: "config-invalid", message });
  manager.status(error.message);
  // Standard error of a service goes to the journal too, where the error must not be repeated.
  if (format === "json") throw error;
  return EXIT.config;
}

/** @throws KvmnatdError when another daemon uses the runtime folder */
async function lockRuntimeDir(
  local: LocalHost,
  runtimeDir: string,
  before: DaemonStatus | undefined,
): Promise<void> {
  if (await local.lockRuntimeDir()) return;
  const other = before === undefined ? "" : ` as process ${before.pid} with ${before.config}`;
  const message = `kvmnatd runs already${other} in ${runtimeDir}; stop it first (systemctl stop kvmnatd)`;
  throw new KvmnatdError("already-running", message);
}

function identify(config: string): DaemonIdentity {
  const self = readStat("self");
  if (self === undefined) throw new Error("/proc/self is missing: kvmnatd needs /proc");
  const { pid, startTicks } = self;
  return { version: VERSION, pid, startTicks, config, startedAt: new Date().toISOString() };
}
