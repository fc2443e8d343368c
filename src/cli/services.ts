import { formatDiagnostics } from "../config/code-frame.ts";
import type { PortMap } from "../config/port-map.ts";
import { createLoop } from "../daemon/loop.ts";
import type { Loop } from "../daemon/loop.ts";
import type { Reloaded } from "../daemon/loop-state.ts";
import type { DaemonIdentity } from "../daemon/publisher.ts";
import { EXIT, KvmnatdError } from "../errors.ts";
import { serveControl } from "../host/control-socket.ts";
import type { Answer } from "../host/control-socket.ts";
import type { LocalHost } from "../host/create-host.ts";
import { startResync } from "../host/cron.ts";
import type { ServiceManager } from "../host/systemd/notify.ts";
import type { Logger } from "../host-interface.ts";
import type { Paths } from "../paths.ts";
import type { Variant } from "../rules/ruleset.ts";
import { readPortTargets } from "../status/previous-targets.ts";
import { summarize } from "../status/status.ts";
import type { DaemonStatus } from "../status/status.ts";
import { createMetricsEndpoint } from "./metrics-endpoint.ts";
import type { MetricsEndpoint } from "./metrics-endpoint.ts";
import { createWatchers } from "./watchers.ts";
import type { Watchers } from "./watchers.ts";

/** What the daemon runs on. */
export interface Surroundings {
  readonly paths: Paths;
  readonly local: LocalHost;
  readonly logger: Logger;
  readonly manager: ServiceManager;
  readonly identity: DaemonIdentity;
  /** Status of the daemon before this one. */
  readonly before: DaemonStatus | undefined;
}

/** The loop and everything that feeds it hints or publishes its results. */
export interface Services {
  readonly loop: Loop;
  /** Rejects with a bug of a monitor; never resolves. */
  readonly failed: Promise<never>;
  /** Variants of iptables that may have rules of kvmnatd. */
  readonly usedVariants: ReadonlySet<Variant>;
  /** Whether the rules stay at the stop; undefined before the first valid config. */
  onStop(): PortMap["onStop"] | undefined;
  /** Stops all but the loop, which the signal stops. */
  stop(): Promise<void>;
}

/** What the loop reports to, and what may feed it. */
interface Parts {
  readonly watchers: Watchers;
  readonly metrics: MetricsEndpoint;
  readonly resync: Resync;
  readonly usedVariants: Set<Variant>;
  readonly rulesAtStop: { configured: PortMap["onStop"] | undefined; isHandover: boolean };
}

/** Starts the services. The caller starts the loop. */
export async function startServices(surroundings: Surroundings): Promise<Services> {
  const { paths, local, logger, before } = surroundings;
  const parts: Parts = {
    watchers: createWatchers(local, paths),
    metrics: createMetricsEndpoint(logger, () => loop.hint("metrics endpoint")),
    resync: createResync(() => loop.hint("resync", "resync")),
    usedVariants: new Set(before?.iptables == null ? [] : [before.iptables]),
    rulesAtStop: { configured: undefined, isHandover: false },
  };
  const { watchers, metrics, resync, usedVariants, rulesAtStop } = parts;
  const loop = createDaemonLoop(surroundings, parts);
  const watching = watchers.start((...hint) => loop.hint(...hint));
  const stopControl = await startControl(paths.runtimeDir, logger, async (request) => {
    if (request === "reload") return toAnswer(await loop.reload());
    rulesAtStop.isHandover = true;
    return { exitCode: EXIT.ok, text: "the rules will stay for the next daemon when kvmnatd stops" };
  });
  return {
    loop,
    failed: watching.failed,
    usedVariants,
    onStop: () => (rulesAtStop.isHandover ? "keep" : rulesAtStop.configured),
    stop: async () => {
      resync.stop();
      await Promise.all([stopControl(), metrics.stop(), watching.stop()]);
    },
  };
}

function createDaemonLoop(surroundings: Surroundings, parts: Parts): Loop {
  const { local, logger, manager, before, identity } = surroundings;
  const { watchers, metrics, resync, usedVariants, rulesAtStop } = parts;
  return createLoop({
    host: local,
    logger,
    identity,
    previous: { targets: readPortTargets(before?.forwards ?? []), variants: new Set(usedVariants) },
    health: {
      changeDetectionProblem: (variant) => watchers.changeDetectionProblem(variant),
      externalProblems: () => metrics.problems(),
    },
    events: {
      onPortMap: (portMap) => {
        logger.setLevel(portMap.logLevel);
        resync.follow(portMap.resync);
        metrics.listenAt(portMap.metrics);
        rulesAtStop.configured = portMap.onStop;
      },
      onStatus: (status) => {
        if (status.iptables !== null) usedVariants.add(status.iptables);
        manager.status(summarize(status));
        manager.ready();
        metrics.onStatus(status);
      },
      onPass: (report) => metrics.onPass(report),
      onProgress: () => manager.alive(),
    },
    heartbeatMs: manager.aliveEveryMs,
  });
}

interface Resync {
  follow(expression: string): void;
  stop(): void;
}

/** Calls back at the times of the cron expression that it was given last. */
function createResync(onTick: () => void): Resync {
  let followed: string | undefined;
  let stop = (): void => undefined;
  return {
    follow: (expression) => {
      if (expression === followed) return;
      stop();
      followed = expression;
      stop = startResync(expression, onTick);
    },
    stop: () => stop(),
  };
}

/** A daemon without a control socket still keeps the rules. */
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
  if (configError !== undefined) {
    const { diagnostics, source } = configError;
    const text = formatDiagnostics(diagnostics, source, { color: false });
    return { exitCode: EXIT.config, text: `${text}\nthe config read before stays in force` };
  }
  if (failures.length > 0) return { exitCode: EXIT.failed, text: failures.join("\n") };
  return { exitCode: EXIT.ok, text: "" };
}
