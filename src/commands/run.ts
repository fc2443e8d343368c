import { readLeads } from "../core/doubt.ts";
import { createLoop } from "../daemon/loop.ts";
import type { DaemonIdentity } from "../daemon/loop.ts";
import type { DaemonStatus } from "../core/status.ts";
import type { PortMap } from "../core/port-map.ts";
import { EXIT, KvmnatdError } from "../errors.ts";
import { lockFolder } from "../host/lock.ts";
import { chooseFormat, createLogger } from "../host/logger.ts";
import { identifyProcess } from "../host/processes.ts";
import { startResync } from "../host/resync-timer.ts";
import { readStatus } from "../host/status-file.ts";
import type { Logger } from "../ports.ts";
import { VERSION } from "../version.ts";
import type { Context } from "./context.ts";
import { teardown } from "./teardown.ts";
import { createWatches } from "./watches.ts";

/** `kvmnatd run`: the daemon, until the signal. */
export async function run(context: Context, signal: AbortSignal): Promise<number> {
  const { paths } = context;
  // From the first moment: unheard, SIGHUP would kill, and `systemctl reload` may come at once.
  let look: () => void = () => undefined;
  const onHup = (): void => look();
  process.on("SIGHUP", onHup);
  const before = await readStatus(paths.runtimeDir);
  await claim(context, before);
  const identity = await identify(context);
  const logger = createLogger(chooseFormat(process.env, process.stdout.isTTY), "info", context.color);
  logger.log({ level: "info", event: "start", message: `kvmnatd ${VERSION} starts with ${paths.config}` });
  let portMap: PortMap | undefined;
  let stopResync: () => void = () => undefined;
  const watches = createWatches(paths);
  const loop = createLoop({
    host: watches.host,
    logger,
    identity,
    leads: readLeads(before?.forwards ?? []),
    unheard: (variant) => watches.unheard(variant),
    onPortMap: (now) => {
      logger.setLevel(now.logLevel);
      if (now.resync !== portMap?.resync) {
        stopResync();
        stopResync = startResync(now.resync, () => loop.hint("resync"));
      }
      portMap = now;
    },
  });
  const onError = (error: unknown): void =>
    logger.log({
      level: "error",
      event: "watch",
      message: `files are not watched: ${String(error)}; resync still is`,
    });
  const watching = watches.start((trigger, kind) => loop.hint(trigger, kind), onError);
  look = () => loop.hint("SIGHUP", "file");
  try {
    await Promise.race([loop.run(signal), watching.failed]);
    await stop(context, logger, portMap);
  } finally {
    process.off("SIGHUP", onHup);
    stopResync();
    await watching.stop();
  }
  return EXIT.ok;
}

async function stop(context: Context, logger: Logger, portMap: PortMap | undefined): Promise<void> {
  const message = `kvmnatd stops; ${await leaveRules(context, logger, portMap)}`;
  logger.log({ level: "info", event: "stop", message });
}

async function leaveRules(context: Context, logger: Logger, portMap: PortMap | undefined): Promise<string> {
  if (portMap?.onStop !== "remove") return "rules stay (on_stop: keep)";
  const code = await teardown({
    ...context,
    print: (message) => logger.log({ level: "info", event: "teardown", message }),
    complain: (message) => logger.log({ level: "error", event: "teardown", message }),
  });
  return code === EXIT.ok ? "rules removed" : "rules may be left: `kvmnatd teardown` removes them";
}

/** @throws KvmnatdError when another daemon has the runtime folder */
async function claim({ paths: { runtimeDir } }: Context, before: DaemonStatus | undefined): Promise<void> {
  if (await lockFolder(runtimeDir)) return;
  const who = before === undefined ? "" : ` as process ${before.pid} with ${before.config}`;
  const message = `kvmnatd runs already${who} in ${runtimeDir}; stop it first (systemctl stop kvmnatd)`;
  throw new KvmnatdError("already-running", message);
}

async function identify({ paths: { config } }: Context): Promise<DaemonIdentity> {
  const self = await identifyProcess("self");
  if (self === undefined) throw new Error("/proc/self is not there: kvmnatd needs /proc");
  return { version: VERSION, ...self, config, startedAt: new Date().toISOString() };
}
