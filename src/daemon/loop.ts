import {
  IDLE,
  onFailure,
  onFileHint,
  onHint,
  onRulesHint,
  onStart,
  onSuccess,
  sleepMs,
} from "../core/cadence.ts";
import type { Cadence } from "../core/cadence.ts";
import type { Lead } from "../core/doubt.ts";
import type { PortMap } from "../core/port-map.ts";
import type { Variant } from "../core/ruleset.ts";
import { STATUS_SCHEMA, toForwardStatus } from "../core/status.ts";
import type { DaemonStatus, Problem } from "../core/status.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host, Logger } from "../ports.ts";
import { findOccupiedPorts } from "./occupied.ts";
import { reconcile } from "./reconcile.ts";
import type { PassMemory, PassResult } from "./reconcile.ts";

/** What stays the same in every status of one daemon. */
export type DaemonIdentity = Pick<DaemonStatus, "version" | "pid" | "startTicks" | "config" | "startedAt">;

/** `file`: look once more when the events have settled. `rules`: our own changes are among them, do not hurry. */
type HintKind = "plain" | "file" | "rules";

/** Nobody tells that a process begins to listen. */
const LOOKS_AT_ALL = ["resync", "SIGHUP"];

/** How often to look at rules of whose changes nobody tells. */
const POLL_MS = 2000;

/** What the last whole pass found. */
type Known = Pick<DaemonStatus, "iptables" | "forwards" | "problems">;

const ON_HINT = { plain: onHint, file: onFileHint, rules: onRulesHint } as const;

export interface Loop {
  /** Something may have changed: look. */
  hint(trigger: string, kind?: HintKind): void;
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
  readonly leads: readonly Lead[];
  /** Why changes of the rules are not told of, for the variant in use; undefined when they are. */
  readonly unheard: (variant: Variant | undefined) => string | undefined;
  /** Called with the config in force, at start and when it has changed. */
  readonly onPortMap: (portMap: PortMap) => void;
}

/** The daemon: hints in, passes out. */
export function createLoop({ host, logger, identity, leads, unheard, onPortMap }: LoopOptions): Loop {
  let cadence: Cadence = onHint(IDLE, host.now());
  let memory: PassMemory = { flows: { leads } };
  let pass = 0;
  let occupied: readonly Problem[] = [];
  let known: Known = { iptables: null, forwards: [], problems: [] };
  let problemsTold: ReadonlySet<string> = new Set();
  const triggers = new Set(["start"]);
  let wake: () => void = () => undefined;

  function hint(trigger: string, kind: HintKind = "plain"): void {
    triggers.add(trigger);
    cadence = ON_HINT[kind](cadence, host.now());
    wake();
  }

  async function run(signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => wake(), { once: true });
    while (!signal.aborted) {
      const waitMs = sleepMs(cadence, host.now());
      // Time that was slept is over, whatever the clock says: it may have been set back meanwhile.
      if (waitMs === 0 || (await sleep(waitMs)) === "over") await runPass();
    }
  }

  /** Until the time is over, a hint comes or the daemon ends. */
  async function sleep(ms: number | undefined): Promise<"over" | "woken"> {
    const how = await new Promise<"over" | "woken">((resolve) => {
      const timer = ms === undefined ? undefined : setTimeout(resolve, ms, "over");
      wake = () => {
        clearTimeout(timer);
        resolve("woken");
      };
    });
    wake = () => undefined;
    return how;
  }

  async function runPass(): Promise<void> {
    cadence = onStart(cadence, host.now());
    const trigger = triggers.size === 0 ? "timer" : [...triggers].join(", ");
    triggers.clear();
    pass += 1;
    try {
      await record(await reconcile(host, inputs(), pass, trigger), trigger);
    } catch (error) {
      if (!(error instanceof KvmnatdError) || (!error.retryable && memory.snapshot === undefined))
        throw error;
      triggers.add("retry");
      cadence = onFailure(cadence, host.now());
      // What could not be looked at is not over, and the rules in the kernel are as they were.
      await publish([{ code: error.code, message: error.message, severity: "error" }, ...known.problems]);
    }
  }

  /** A neighbour whose rules change all the time must not cost more than it has to. */
  function inputs(): PassMemory {
    return { ...memory, linksAreCurrent: cadence.served === "rules" };
  }

  async function record(result: PassResult, trigger: string): Promise<void> {
    const before = memory.snapshot;
    const { snapshot } = result.view;
    memory = result.memory;
    const changed = before?.configText !== snapshot.configText;
    if (changed) {
      onPortMap(snapshot.portMap);
      logger.log(configEntry(snapshot.portMap, before !== undefined));
    }
    for (const entry of result.entries) logger.log(entry);
    if (changed || LOOKS_AT_ALL.some((each) => trigger.split(", ").includes(each)))
      occupied = await findOccupiedPorts(host, result.view);
    known = {
      iptables: result.view.tool?.variant ?? null,
      forwards: result.view.resolution.forwards.map((each) => toForwardStatus(each, result.failing)),
      problems: [...result.problems, ...occupied, ...pollingProblem(result.view.tool?.variant)],
    };
    if (result.failed) triggers.add("retry");
    cadence = result.failed
      ? onFailure(cadence, host.now())
      : onSuccess(cadence, host.now(), { changed: result.changed, wakeAtMs: wakeAt(result) });
    await publish(known.problems);
  }

  function wakeAt({ wakeAtMs, view }: PassResult): number | undefined {
    if (unheard(view.tool?.variant) === undefined) return wakeAtMs;
    return Math.min(wakeAtMs ?? Number.POSITIVE_INFINITY, host.now() + POLL_MS);
  }

  function pollingProblem(variant: Variant | undefined): readonly Problem[] {
    const why = unheard(variant);
    if (why === undefined) return [];
    const message = `${why}: everything is looked at every ${POLL_MS / 1000} s instead`;
    return [{ code: "polling", message, severity: "warning" }];
  }

  /** Each problem once, when it appears, and once more when it is over. */
  function tellProblems(problems: readonly Problem[]): void {
    const now = new Set(problems.map((problem) => problem.message));
    for (const { code, message, severity } of problems)
      if (!problemsTold.has(message))
        logger.log({ level: severity === "error" ? "error" : "warn", event: code, message, pass });
    for (const message of problemsTold)
      if (!now.has(message))
        // What followed from it, after the semicolon, is over too.
        logger.log({
          level: "info",
          event: "problem-over",
          message: `over: ${message.split("; ", 1)[0]}`,
          pass,
        });
    problemsTold = now;
  }

  /** Into status and log. A full or read-only /run must not stop the forwards: told, tried again at the next pass. */
  async function publish(problems: readonly Problem[]): Promise<void> {
    const updatedAt = new Date(host.now()).toISOString();
    try {
      await host.writeStatus({ schema: STATUS_SCHEMA, ...identity, updatedAt, pass, ...known, problems });
      tellProblems(problems);
    } catch (error) {
      if (!(error instanceof KvmnatdError)) throw error;
      tellProblems([...problems, { code: error.code, message: error.message, severity: "warning" }]);
    }
  }

  return { hint, run };
}

function configEntry(portMap: PortMap, again: boolean): Parameters<Logger["log"]>[0] {
  const forwards = portMap.guests.reduce((sum, guest) => sum + guest.forwards.length, 0);
  const message = `config ${again ? "reloaded" : "loaded"}: guests ${portMap.guests.length}, forwards ${forwards}`;
  return { level: "info", event: "config", message };
}
