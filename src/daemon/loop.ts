import type { Family } from "../net/address.ts";
import {
  IDLE,
  passFailed,
  onFileHint,
  onHint,
  onRulesHint,
  passStarted,
  passSucceeded,
  sleepMs,
} from "./schedule.ts";
import type { Schedule } from "./schedule.ts";
import type { PassReport } from "../status/metrics.ts";
import type { PortMap } from "../config/port-map.ts";
import type { ResolvedForward, PortTarget } from "../forwards/resolved-forward.ts";
import type { Variant } from "../rules/ruleset.ts";
import { guestKey } from "../rules/ownership.ts";
import { toForwardStatus } from "../status/status.ts";
import type { DaemonStatus } from "../status/status.ts";
import { KvmnatdError } from "../errors.ts";
import type { ConfigError } from "../errors.ts";
import type { Host, Logger } from "../host-interface.ts";
import { createHints } from "./hints.ts";
import type { HintKind } from "./hints.ts";
import { createInterruptibleSleep } from "./nap.ts";
import { checkPortsInUse } from "./ports-in-use.ts";
import { withProgress } from "./watchdog.ts";
import { createPublisher } from "./publisher.ts";
import type { DaemonIdentity, Found } from "./publisher.ts";
import { reconcile } from "./pass.ts";
import { startFlowState } from "./remove-stale-flows.ts";
import type { View } from "./observe.ts";
import type { PassState, PassResult } from "./pass.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createError, createWarning, describeDiagnostic } from "../diagnostic.ts";

/** Interval between checks for listening processes, which cause no event. */
const LOOKS_AT_ALL = ["resync", "SIGHUP", "reload"];

/** What is wrong with a file may stay so for days, and the rules are as they should be all the same. */
const OF_FILES: ReadonlySet<string> = new Set(["config-invalid", "lease-file", "lease-folder"]);

/** Interval between checks of rules whose changes cause no event. */
const POLL_MS = 2000;

const FOUGHT = createError(
  "rules-overwritten",
  "another program undoes kvmnatd's rules again and again, perhaps another kvmnatd with another config; they are put " +
    "right once a second, and forwards fail in between: `pgrep -af kvmnatd` shows whether there are two, of which one has to be stopped",
);

type Done = Omit<PassReport, "seconds" | "triggers">;

const ON_HINT = { plain: onHint, file: onFileHint, rules: onRulesHint } as const;

/** The outcome of a requested pass. */
export interface Reloaded {
  /** Why the config on disk is not in force. */
  readonly configError?: ConfigError;
  /** Why it is not in the kernel. */
  readonly failures: readonly string[];
}

export interface Loop {
  /**
   * Something may have changed: look.
   * @param family of `rules`: iptables' rules of which family, if no others may have changed
   */
  hint(trigger: string, kind?: HintKind, family?: Family): void;
  /** Whether the last pass has found and left everything as it should be, and none runs. */
  isInSync(): boolean;
  /** Requests a full pass. @returns when a whole pass that began after this call has ended */
  reload(): Promise<Reloaded>;
  /**
   * Passes until the signal; one at a time, none of them lost.
   * @throws ConfigError when there is no good config at start
   */
  run(signal: AbortSignal): Promise<void>;
}

export interface LoopOptions {
  readonly host: Host;
  readonly logger: Logger;
  readonly identity: DaemonIdentity;
  /** Where the daemon before this one led the forwards. */
  readonly previousTargets: readonly PortTarget[];
  /** Which variants of iptables kvmnatd has used before. */
  readonly usedVariants: ReadonlySet<Variant>;
  /** Why changes of the rules are not told of, for the variant in use; undefined when they are. */
  readonly changeDetectionProblem: (variant: Variant | undefined) => string | undefined;
  /** Called with the config in force, at start and when it has changed. */
  readonly onPortMap: (portMap: PortMap) => void;
  /** Called with each state that is published, and with what the pass before it did. */
  readonly onStatus: (status: DaemonStatus) => void;
  /** Called after each pass, with what it did. */
  readonly onPass: (report: PassReport) => void;
  /** Problems of what runs beside the passes. */
  readonly externalProblems: () => readonly Diagnostic[];
  /** Called whenever the loop goes round or a pass gets on: it hangs no longer than this is called. */
  readonly onProgress: () => void;
  /** How often {@link onProgress} is wanted, though nothing happens; undefined: not at all. */
  readonly heartbeatMs: number | undefined;
}

/** The daemon: hints in, passes out. */
export function createLoop(options: LoopOptions): Loop {
  const {
    logger,
    previousTargets: leads,
    changeDetectionProblem: unheard,
    externalProblems: problemsBeside,
    onPortMap,
    onPass,
    onProgress: onAlive,
    heartbeatMs: aliveEveryMs,
  } = options;
  const host = withProgress(options.host, onAlive);
  const publisher = createPublisher({ ...options, host });
  const hints = createHints("start");
  const nap = createInterruptibleSleep();
  let cadence: Schedule = onHint(IDLE, host.now());
  let memory: PassState = { flows: startFlowState(leads), variants: options.usedVariants };
  let pass = 0;
  let occupied: readonly Diagnostic[] = [];
  let seen: Pick<PassReport, "configErrors" | "leaseErrors"> = { configErrors: [], leaseErrors: [] };
  /** What the last pass saw, if it left nothing to be done. */
  let settled: View | undefined;
  let calm = false;
  let asking: ((reloaded: Reloaded) => void)[] = [];

  function hint(trigger: string, kind: HintKind = "plain", family?: Family): void {
    hints.add(trigger, kind, family);
    cadence = ON_HINT[kind](cadence, host.now());
    nap.wake();
  }

  function reload(): Promise<Reloaded> {
    const reloaded = new Promise<Reloaded>((resolve) => asking.push(resolve));
    hint("reload");
    return reloaded;
  }

  async function run(signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => nap.wake(), { once: true });
    while (!signal.aborted) {
      onAlive();
      const waitMs = sleepMs(cadence, host.now()) ?? Number.POSITIVE_INFINITY;
      const napMs = Math.min(waitMs, aliveEveryMs ?? Number.POSITIVE_INFINITY);
      // Time that was slept is over, whatever the clock says: it may have been set back meanwhile.
      if (waitMs === 0 || ((await nap.sleep(napMs)) === "over" && napMs === waitMs)) await runPass();
    }
  }

  async function runPass(): Promise<void> {
    calm = false;
    cadence = passStarted(cadence, host.now());
    const asked = hints.takeTriggers(cadence.secondLookAtMs === undefined);
    const trigger = asked.join(", ");
    const startMs = host.monotonicMs();
    const waiting = asking;
    asking = [];
    pass += 1;
    try {
      const result = await reconcile(host, takeInputs(), { number: pass, trigger, lingers: true });
      await record(result, trigger);
      report(reportOf(result), asked, startMs);
      // A file that may still be being written was not looked at.
      if (result.view.lookAgainAtMs === undefined) answer(waiting, outcomeOf(result));
      else asking.push(...waiting);
    } catch (error) {
      if (!(error instanceof KvmnatdError) || (!error.retryable && memory.snapshot === undefined))
        throw error;
      settled = undefined;
      hints.add("retry");
      cadence = passFailed(cadence, host.now());
      await publisher.publishFailure(pass, error.toDiagnostic());
      report({ ...NOTHING_DONE, ...seen }, asked, startMs);
      answer(waiting, { failures: [error.message] });
    }
  }

  function report(done: Done, triggered: readonly string[], startMs: number): void {
    seen = done;
    onPass({ ...done, triggers: triggered, seconds: (host.monotonicMs() - startMs) / 1000 });
  }

  function answer(waiting: readonly ((reloaded: Reloaded) => void)[], reloaded: Reloaded): void {
    for (const tell of waiting) tell(reloaded);
  }

  /** A neighbour whose rules change all the time must not cost more than it has to. */
  function takeInputs(): PassState {
    // Without events only a check shows changes.
    const isHeard = unheard(settled?.tool?.variant) === undefined;
    const touched = hints.takeTouched();
    const onlyRules =
      isHeard && cadence.rulesOnly === true && settled !== undefined && touched !== undefined
        ? { view: settled, families: touched }
        : undefined;
    return {
      ...memory,
      linksAreCurrent: isHeard && cadence.served === "rules",
      ...(onlyRules === undefined ? {} : { onlyRules }),
    };
  }

  async function record(result: PassResult, trigger: string): Promise<void> {
    const before = memory.snapshot;
    const { snapshot } = result.view;
    const isAsBefore = !result.changed && !result.failed && settled?.resolution === result.view.resolution;
    settled = result.changed || result.failed || result.view.tool === undefined ? undefined : result.view;
    calm =
      settled !== undefined &&
      result.failing.size === 0 &&
      result.problems.every(({ severity, code }) => severity !== "error" || OF_FILES.has(code));
    memory = result.memory;
    const changed = before?.configText !== snapshot.configText;
    if (changed) {
      onPortMap(snapshot.portMap);
      logger.log(configEntry(snapshot.portMap, before !== undefined));
    }
    publisher.tell(result.entries);
    if (changed || LOOKS_AT_ALL.some((each) => trigger.split(", ").includes(each)))
      occupied = await checkPortsInUse(host, result.view);
    if (result.failed) hints.add("retry");
    const wakeAtMs = wakeAt(result);
    cadence = result.failed
      ? passFailed(cadence, host.now(), wakeAtMs)
      : passSucceeded(cadence, host.now(), { changed: result.changed, wakeAtMs });
    const unlogged = logger.problem();
    const { forwards } = result.view.resolution;
    const found: Found = {
      iptables: result.view.tool?.variant ?? null,
      forwards: forwards.map((each) => toForwardStatus(each, failureOf(result, each))),
      problems: [
        ...result.problems,
        ...occupied,
        ...pollingProblem(result.view.tool?.variant),
        ...problemsBeside(),
        ...(cadence.fought ? [FOUGHT] : []),
        ...(unlogged === undefined ? [] : [unlogged]),
      ],
    };
    await publisher.publish(pass, found, isAsBefore);
  }

  function wakeAt({ wakeAtMs, view }: PassResult): number | undefined {
    if (unheard(view.tool?.variant) === undefined) return wakeAtMs;
    return Math.min(wakeAtMs ?? Number.POSITIVE_INFINITY, host.now() + POLL_MS);
  }

  function pollingProblem(variant: Variant | undefined): readonly Diagnostic[] {
    const why = unheard(variant);
    if (why === undefined) return [];
    const message = `${why}: everything is looked at every ${POLL_MS / 1000} s instead`;
    return [createWarning("change-monitoring-degraded", message)];
  }

  return { hint, isInSync: () => calm, reload, run };
}

function failureOf({ failing, taken }: PassResult, resolved: ResolvedForward): string | undefined {
  return failing.get(guestKey(resolved.family, resolved.forward.guest)) ?? taken.get(resolved);
}

/** The problem of a pass that failed to read its inputs. */
const NOTHING_DONE = { outcome: "failed", added: 0, removed: 0, healed: 0 } as const;

function reportOf({ view, work, changed, failed }: PassResult): Done {
  return {
    ...work,
    outcome: failed ? "failed" : changed ? "changed" : "unchanged",
    configErrors: view.configError === undefined ? [] : [view.configError.message],
    leaseErrors: view.leaseDiagnostics.map(describeDiagnostic),
  };
}

function outcomeOf({ view: { configError }, problems, failed }: PassResult): Reloaded {
  const errors = problems.filter(({ severity, code }) => severity === "error" && code !== "config-invalid");
  return {
    ...(configError === undefined ? {} : { configError }),
    failures: failed ? errors.map(({ message }) => message) : [],
  };
}

function configEntry(portMap: PortMap, again: boolean): Parameters<Logger["log"]>[0] {
  const forwards = portMap.guests.reduce((sum, guest) => sum + guest.forwards.length, 0);
  const message = `config ${again ? "reloaded" : "loaded"}: guests ${portMap.guests.length}, forwards ${forwards}`;
  return { level: "info", event: "config-loaded", message };
}
