import { describeDiagnostic } from "../diagnostic.ts";
import type { Diagnostic } from "../diagnostic.ts";
import type { ConfigError } from "../errors.ts";
import type { ResolvedForward } from "../forwards/resolved-forward.ts";
import { guestKey } from "../rules/ownership.ts";
import type { PassReport } from "../status/metrics.ts";
import { toForwardStatus } from "../status/status.ts";
import type { PassRequest } from "./hints.ts";
import type { View } from "./observe.ts";
import type { PassResult, PassState } from "./pass.ts";
import type { Findings } from "./publisher.ts";
import type { Schedule } from "./schedule.ts";

/** What the loop keeps from one pass to the next. */
export interface LoopState {
  /** Number of the last pass. */
  readonly pass: number;
  readonly passState: PassState;
  /** The view of the last pass if it changed nothing and failed in nothing; else undefined. */
  readonly lastCleanView: View | undefined;
  readonly portsInUse: readonly Diagnostic[];
  /** Errors of config and lease files that the last pass reported. */
  readonly inputErrors: Pick<PassReport, "configErrors" | "leaseErrors">;
}

/** Result of a reload that a user requested. */
export interface Reloaded {
  /** Why the config on disk is not in force; undefined when it is. */
  readonly configError: ConfigError | undefined;
  /** Why the kernel's rules are not as desired. */
  readonly failures: readonly string[];
}

export function createLoopState(passState: PassState): LoopState {
  const inputErrors = { configErrors: [], leaseErrors: [] };
  return { pass: 0, passState, lastCleanView: undefined, portsInUse: [], inputErrors };
}

/** The state while a pass runs. */
export function startPass(state: LoopState): LoopState {
  return { ...state, pass: state.pass + 1 };
}

/**
 * The input of a pass. After a pass without changes, a pass for rules of other programs reads only those rules.
 * @param isMonitored whether events report every change
 */
export function buildPassInput(
  { passState, lastCleanView: view }: LoopState,
  { touchedFamilies: families }: PassRequest,
  { isForRulesOnly }: Schedule,
  isMonitored: boolean,
): PassState {
  const onlyRules =
    isMonitored && isForRulesOnly && view !== undefined && families !== undefined
      ? { view, families }
      : undefined;
  return {
    ...passState,
    // After a failure no pass may have read the links since they changed.
    linksAreCurrent: isMonitored && isForRulesOnly,
    onlyRules,
  };
}

/** The state after a pass. */
export function updateLoopState(state: LoopState, result: PassResult): LoopState {
  const { view, memory, changed, failed } = result;
  const lastCleanView = changed || failed || view.tool === undefined ? undefined : view;
  return {
    ...state,
    passState: memory,
    lastCleanView,
    inputErrors: inputErrorsOf(view),
  };
}

/** What a pass found, for the status. @param others problems that the pass itself does not know */
export function toFindings(result: PassResult, others: readonly Diagnostic[]): Findings {
  const { forwards } = result.view.resolution;
  return {
    iptables: result.view.tool?.variant ?? null,
    forwards: forwards.map((each) => toForwardStatus(each, failureOf(result, each))),
    problems: [...result.problems, ...others],
  };
}

function failureOf({ failing, taken }: PassResult, resolved: ResolvedForward): string | undefined {
  return failing.get(guestKey(resolved.family, resolved.forward.guest)) ?? taken.get(resolved);
}

/** What a pass did, for the metrics. @param result undefined: the pass could not read its inputs */
export function reportOf(
  result: PassResult | undefined,
  { inputErrors }: LoopState,
): Omit<PassReport, "seconds" | "triggers"> {
  if (result === undefined) return { outcome: "failed", added: 0, removed: 0, healed: 0, ...inputErrors };
  const { work, changed, failed } = result;
  return { ...work, outcome: failed ? "failed" : changed ? "changed" : "unchanged", ...inputErrors };
}

function inputErrorsOf({ configError, leaseDiagnostics }: View): LoopState["inputErrors"] {
  return {
    configErrors: configError === undefined ? [] : [configError.message],
    leaseErrors: leaseDiagnostics.map(describeDiagnostic),
  };
}

export function toReloaded({ view: { configError }, problems, failed }: PassResult): Reloaded {
  const errors = problems.filter(({ severity, code }) => severity === "error" && code !== "config-invalid");
  return { configError, failures: failed ? errors.map(({ message }) => message) : [] };
}
