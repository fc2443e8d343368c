import type { PortMap } from "../config/port-map.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createError, createWarning } from "../diagnostic.ts";
import { findEarliest } from "../earliest.ts";
import { KvmnatdError } from "../errors.ts";
import type { PortTarget } from "../forwards/resolved-forward.ts";
import type { Host, Logger } from "../host-interface.ts";
import type { LogEntry } from "../log/audit-entries.ts";
import type { Variant } from "../rules/ruleset.ts";
import type { PassReport } from "../status/metrics.ts";
import type { DaemonStatus } from "../status/status.ts";
import type { PassRequest } from "./hints.ts";
import type { LoopState } from "./loop-state.ts";
import {
  createLoopState,
  updateLoopState,
  buildPassInput,
  reportOf,
  startPass,
  toFindings,
} from "./loop-state.ts";
import { FIRST_PASS_STATE, reconcile } from "./pass.ts";
import type { PassResult, PassState } from "./pass.ts";
import { checkPortsInUse } from "./ports-in-use.ts";
import { createPublisher } from "./publisher.ts";
import type { DaemonIdentity } from "./publisher.ts";
import { startFlowState } from "./remove-stale-flows.ts";
import type { Schedule } from "./schedule.ts";
import { withProgress } from "./watchdog.ts";

export interface RunnerOptions {
  readonly host: Host;
  readonly logger: Logger;
  readonly identity: DaemonIdentity;
  /** What the previous daemon left behind. */
  readonly previous: {
    /** Targets of its forwards. */
    readonly targets: readonly PortTarget[];
    /** Variants of iptables that may have owned rules. */
    readonly variants: ReadonlySet<Variant>;
  };
  readonly health: {
    /** Why events do not report every change with this variant; undefined: they do. */
    readonly changeDetectionProblem: (variant: Variant | undefined) => string | undefined;
    /** Problems of the parts of the daemon outside the passes. */
    readonly externalProblems: () => readonly Diagnostic[];
  };
  readonly events: {
    /** A config came into force, at start or after a change. */
    readonly onPortMap: (portMap: PortMap) => void;
    /** A status was published. */
    readonly onStatus: (status: DaemonStatus) => void;
    /** A pass ended. */
    readonly onPass: (report: PassReport) => void;
    /** The loop or a pass makes progress. Without this call for longer than the heartbeat, the daemon hangs. */
    readonly onProgress: () => void;
  };
}

/** A pass that ended, or the error that kept it from reading its inputs. */
export type PassOutcome =
  | { readonly result: PassResult; readonly error: undefined; readonly wakeAtMs: number | undefined }
  | { readonly result: undefined; readonly error: KvmnatdError; readonly wakeAtMs: undefined };

/** Makes passes and publishes their results. */
export interface PassRunner {
  /** @throws ConfigError when there is no valid config at start, and every error that is a bug */
  run(request: PassRequest, schedule: Schedule): Promise<PassOutcome>;
  /** Publishes a pass to log, status and metrics. @param schedule the schedule after the pass */
  publish(outcome: PassOutcome, request: PassRequest, schedule: Schedule): Promise<void>;
}

/** Interval between passes while events do not report every change. */
const POLL_MS = 2000;

const OVERWRITTEN = createError(
  "rules-overwritten",
  "another program overwrites kvmnatd's rules again and again, perhaps another kvmnatd with another config; kvmnatd " +
    "repairs them once per second, and forwards fail in between: `pgrep -af kvmnatd` shows whether two run; stop one of them",
);

export function createPassRunner(given: RunnerOptions): PassRunner {
  const options = { ...given, host: withProgress(given.host, given.events.onProgress) };
  const { host, previous, events } = options;
  const publisher = createPublisher({ ...options, onStatus: events.onStatus });
  const { targets, variants } = previous;
  let state = createLoopState({ ...FIRST_PASS_STATE, flows: startFlowState(targets), variants });
  let startedMs = 0;

  async function run(request: PassRequest, schedule: Schedule): Promise<PassOutcome> {
    startedMs = host.monotonicMs();
    state = startPass(state);
    const input = buildPassInput(state, request, schedule, isMonitored(options, state.lastCleanView));
    const outcome = await makePass(options, input, state.pass, request.triggers.join(", "));
    if (outcome.result === undefined) state = { ...state, lastCleanView: undefined };
    return outcome;
  }

  async function publishResult(
    result: PassResult,
    { isResync }: PassRequest,
    schedule: Schedule,
  ): Promise<void> {
    const before = state;
    state = updateLoopState(before, result);
    const isConfigNew = announceConfig(options, before, result);
    publisher.logEntries(result.entries);
    if (isConfigNew || isResync) state = { ...state, portsInUse: await checkPortsInUse(host, result.view) };
    const others = [...state.portsInUse, ...collectDaemonProblems(options, result, schedule)];
    await publisher.publish(state.pass, toFindings(result, others), isUnchanged(before, result));
  }

  return {
    run,
    publish: async ({ result, error }, request, schedule) => {
      await (result === undefined
        ? publisher.publishFailure(state.pass, error.toDiagnostic())
        : publishResult(result, request, schedule));
      const seconds = (host.monotonicMs() - startedMs) / 1000;
      events.onPass({ ...reportOf(result, state), triggers: request.triggers, seconds });
    },
  };
}

/** @throws ConfigError when there is no valid config at start, and every error that is a bug */
async function makePass(
  options: RunnerOptions,
  input: PassState,
  number: number,
  trigger: string,
): Promise<PassOutcome> {
  try {
    const result = await reconcile(options.host, input, { number, trigger, lingers: true });
    return { result, error: undefined, wakeAtMs: wakeAt(options, result) };
  } catch (error) {
    const hasConfig = input.snapshot !== undefined;
    if (!(error instanceof KvmnatdError) || (!error.retryable && !hasConfig)) throw error;
    return { result: undefined, error, wakeAtMs: undefined };
  }
}

/** Whether events report every change. */
function isMonitored({ health }: RunnerOptions, view: PassResult["view"] | undefined): boolean {
  return health.changeDetectionProblem(view?.tool?.variant) === undefined;
}

function wakeAt(options: RunnerOptions, { wakeAtMs, view }: PassResult): number | undefined {
  return isMonitored(options, view) ? wakeAtMs : findEarliest([wakeAtMs, options.host.now() + POLL_MS]);
}

/** Reports a config that came into force. @returns whether there is one */
function announceConfig(
  { events, logger }: RunnerOptions,
  { passState: { snapshot: before } }: LoopState,
  { view: { snapshot } }: PassResult,
): boolean {
  if (before?.configText === snapshot.configText) return false;
  events.onPortMap(snapshot.portMap);
  logger.log(configEntry(snapshot.portMap, before !== undefined));
  return true;
}

/** Whether a pass found the same inputs and rules as the one before. */
function isUnchanged({ lastCleanView }: LoopState, { view, changed, failed }: PassResult): boolean {
  return !changed && !failed && lastCleanView?.resolution === view.resolution;
}

/** Problems of the daemon that a pass does not know. */
function collectDaemonProblems(
  { health, logger }: RunnerOptions,
  { view }: PassResult,
  { overwritten }: Schedule,
): readonly Diagnostic[] {
  const why = health.changeDetectionProblem(view.tool?.variant);
  const polling = `${why}: kvmnatd checks everything every ${POLL_MS / 1000} s instead`;
  return [
    why === undefined ? undefined : createWarning("change-monitoring-degraded", polling),
    ...health.externalProblems(),
    overwritten ? OVERWRITTEN : undefined,
    logger.problem(),
  ].filter((problem) => problem !== undefined);
}

function configEntry(portMap: PortMap, isReload: boolean): LogEntry {
  const forwards = portMap.guests.reduce((sum, guest) => sum + guest.forwards.length, 0);
  const message = `config ${isReload ? "reloaded" : "loaded"}: guests ${portMap.guests.length}, forwards ${forwards}`;
  return { level: "info", event: "config-loaded", message };
}
