import { setTimeout } from "node:timers/promises";
import { formatDiagnostic } from "../config/code-frame.ts";
import type { PortMap } from "../config/port-map.ts";
import type { Variant } from "../rules/ruleset.ts";
import { summarize } from "../status/status.ts";
import type { DaemonStatus } from "../status/status.ts";
import { createLoop } from "../daemon/loop.ts";
import type { Reloaded } from "../daemon/loop.ts";
import type { DaemonIdentity } from "../daemon/publisher.ts";
import { ConfigError, EXIT, KvmnatdError } from "../errors.ts";
import { serveControl } from "../host/control-socket.ts";
import type { Answer } from "../host/control-socket.ts";
import { chooseFormat, createLogger } from "../host/log/logger.ts";
import { readStat } from "../host/network/proc.ts";
import { describeProcess } from "../host/network/listening-sockets.ts";
import { startResync } from "../host/cron.ts";
import { readStatus } from "../host/files/status-file.ts";
import { createServiceManager, inheritSockets } from "../host/systemd/notify.ts";
import type { Logger } from "../host-interface.ts";
import { VERSION } from "../version.ts";
import { createHost } from "../host/create-host.ts";
import type { LocalHost } from "../host/create-host.ts";
import type { Context } from "./context.ts";
import { createMetricsEndpoint } from "./metrics-endpoint.ts";
import { removeOwned } from "./teardown.ts";
import { createWatchers } from "./watchers.ts";
import { readPortTargets } from "../status/previous-targets.ts";

/** `kvmnatd run`: the daemon, until the signal. */
export async function run(context: Context, signal: AbortSignal): Promise<number> {
  const { paths } = context;
  // From the first moment: unheard, SIGHUP would kill, and `systemctl reload` may come at once.
  let look: () => void = () => undefined;
  const onHup = (): void => look();
  process.on("SIGHUP", onHup);
  const sockets = inheritSockets(process.env, process.pid);
  const manager = createServiceManager(process.env, sockets, process.pid);
  const before = await readStatus(paths.runtimeDir);
  const local = createHost(paths);
  await claim(local, context, before);
  const identity = identify(context);
  await describeProcess("kvmnatd");
  const format = chooseFormat(process.env, process.stdout.isTTY);
  const logger = createLogger({
    format,
    level: "info",
    color: context.color,
    journalFd: sockets.journal,
    onProblem: () => loop.hint("log"),
  });
  logger.log({ level: "info", event: "start", message: `kvmnatd ${VERSION} starts with ${paths.config}` });
  const variants = new Set(before?.iptables == null ? [] : [before.iptables]);
  let portMap: PortMap | undefined;
  let handsOver = false;
  let stopResync: () => void = () => undefined;
  const watches = createWatchers(local, paths);
  const metrics = createMetricsEndpoint(logger, () => loop.hint("metrics endpoint"));
  const loop = createLoop({
    host: local,
    logger,
    identity,
    previousTargets: readPortTargets(before?.forwards ?? []),
    usedVariants: variants,
    changeDetectionProblem: (variant) => watches.changeDetectionProblem(variant),
    onPortMap: (now) => {
      logger.setLevel(now.logLevel);
      if (now.resync !== portMap?.resync) {
        stopResync();
        stopResync = startResync(now.resync, () => loop.hint("resync"));
      }
      metrics.listenAt(now.metrics);
      portMap = now;
    },
    onStatus: (status) => {
      if (status.iptables !== null) variants.add(status.iptables);
      manager.status(summarize(status));
      manager.ready();
      metrics.onStatus(status);
    },
    onPass: (report) => metrics.onPass(report),
    externalProblems: () => metrics.problems(),
    onProgress: () => manager.alive(),
    heartbeatMs: manager.aliveEveryMs,
  });
  const watching = watches.start((...hint) => loop.hint(...hint));
  look = () => loop.hint("SIGHUP", "file");
  const stopControl = await startControl(paths.runtimeDir, logger, async (request) => {
    if (request === "reload") return toAnswer(await loop.reload());
    handsOver = true;
    return {
      exitCode: EXIT.ok,
      text: "the rules will stay when kvmnatd stops, for the one that comes after it",
    };
  });
  try {
    await Promise.race([loop.run(signal), watching.failed]);
    manager.stopping();
    await stop(local, logger, handsOver ? "keep" : portMap?.onStop, variants);
  } catch (error) {
    // For people there is the code frame that `main` prints.
    if (!(error instanceof ConfigError) || format === "pretty") throw error;
    logger.log({
      level: "error",
      event: "config-invalid",
      message: `${explain(error)}\nkvmnatd ends; rules that are there stay`,
    });
    manager.status(error.message);
    // The journal has standard error too, and would tell it twice.
    if (format === "json") throw error;
    return EXIT.config;
  } finally {
    process.off("SIGHUP", onHup);
    stopResync();
    try {
      await Promise.all([stopControl(), metrics.stop(), watching.stop()]);
    } finally {
      // What is in the log is written, whatever cannot be ended.
      await logger.flush();
    }
  }
  return EXIT.ok;
}

/** Without it the daemon still does its work. */
async function startControl(
  folder: string,
  logger: Logger,
  answer: Parameters<typeof serveControl>[1],
): Promise<() => Promise<void>> {
  try {
    return await serveControl(folder, answer);
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    logger.log({ level: "warn", event: error.code, message: error.message });
    return async () => undefined;
  }
}

function toAnswer({ configError, failures }: Reloaded): Answer {
  if (configError !== undefined)
    return { exitCode: EXIT.config, text: `${explain(configError)}\nthe config read before stays in force` };
  if (failures.length > 0) return { exitCode: EXIT.failed, text: failures.join("\n") };
  return { exitCode: EXIT.ok, text: "" };
}

/** Every fault with its place in the file. */
function explain({ diagnostics, source }: ConfigError): string {
  return diagnostics.map((diagnostic) => formatDiagnostic(diagnostic, source, { color: false })).join("\n");
}

async function stop(
  local: LocalHost,
  logger: Logger,
  onStop: PortMap["onStop"] | undefined,
  variants: ReadonlySet<Variant>,
): Promise<void> {
  const message = `kvmnatd stops; ${await leaveRules(local, logger, onStop, variants)}`;
  logger.log({ level: "info", event: "stop", message });
}

const REMOVE_TRIES = 3;
const REMOVE_AGAIN_MS = 200;

async function leaveRules(
  local: LocalHost,
  logger: Logger,
  onStop: PortMap["onStop"] | undefined,
  variants: ReadonlySet<Variant>,
): Promise<string> {
  if (onStop !== "remove") return "rules stay (on_stop: keep)";
  let isTold = false;
  const remove = async (): Promise<readonly KvmnatdError[]> => {
    const { failures } = await removeOwned(local, variants, (entry) => {
      const message = "all rules of kvmnatd: removed (on_stop: remove)";
      if (!isTold) logger.log({ level: "info", event: "rules-removed", message });
      isTold = true;
      logger.log(entry);
    });
    return failures;
  };
  // systemd ends all processes of a service, and looks for more until there are none: programs that were started for
  // this may be among them.
  let failures = await remove();
  for (let turn = 1; turn < REMOVE_TRIES && failures.length > 0; turn += 1) {
    await setTimeout(REMOVE_AGAIN_MS);
    failures = await remove();
  }
  for (const { message } of failures)
    logger.log({
      level: "error",
      event: "teardown-incomplete",
      message: `rules of ours may be left: ${message}`,
    });
  return failures.length === 0 ? "rules removed" : "rules may be left: `kvmnatd teardown` removes them";
}

/** @throws KvmnatdError when another daemon has the runtime folder */
async function claim(
  local: LocalHost,
  { paths: { runtimeDir } }: Context,
  before: DaemonStatus | undefined,
): Promise<void> {
  if (await local.lockRuntimeDir()) return;
  const who = before === undefined ? "" : ` as process ${before.pid} with ${before.config}`;
  const message = `kvmnatd runs already${who} in ${runtimeDir}; stop it first (systemctl stop kvmnatd)`;
  throw new KvmnatdError("already-running", message);
}

function identify({ paths: { config } }: Context): DaemonIdentity {
  const self = readStat("self");
  if (self === undefined) throw new Error("/proc/self is not there: kvmnatd needs /proc");
  const { pid, startTicks } = self;
  return { version: VERSION, pid, startTicks, config, startedAt: new Date().toISOString() };
}
