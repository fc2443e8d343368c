import { isDeepStrictEqual } from "node:util";
import type { LogEntry } from "../log/audit-entries.ts";
import { STATUS_SCHEMA, toPublishedProblem } from "../status/status.ts";
import type { DaemonStatus } from "../status/status.ts";
import { limitEntries, EMPTY_PROBLEM_LOG, logProblems } from "../log/problem-log.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host, Logger } from "../host-interface.ts";
import type { Diagnostic } from "../diagnostic.ts";

/** The fields that are the same in every status of one daemon. */
export type DaemonIdentity = Pick<DaemonStatus, "version" | "pid" | "startTicks" | "config" | "startedAt">;

/** What a complete pass found. */
export interface Findings extends Pick<DaemonStatus, "iptables" | "forwards"> {
  readonly problems: readonly Diagnostic[];
}

/** Writes the status file and the log. */
export interface Publisher {
  /** Logs what a pass did; lines that a guest could repeat without end are rate-limited. */
  logEntries(entries: readonly LogEntry[]): void;
  /**
   * Publishes what a pass found.
   * @param isAsBefore the pass found the same inputs and rules as the one before: nothing new is nothing to write
   */
  publish(pass: number, found: Findings, isAsBefore: boolean): Promise<void>;
  /**
   * Publishes a pass that failed before it could read its inputs. Problems of the last complete pass stay open; the
   * kernel's rules are unchanged.
   */
  publishFailure(pass: number, failure: Diagnostic): Promise<void>;
}

interface PublisherOptions {
  readonly host: Pick<Host, "now" | "writeStatus">;
  readonly logger: Logger;
  readonly identity: DaemonIdentity;
  /** Called with each status that is published. */
  readonly onStatus: (status: DaemonStatus) => void;
}

export function createPublisher({ host, logger, identity, onStatus }: PublisherOptions): Publisher {
  let lastFound: Findings = { iptables: null, forwards: [], problems: [] };
  /** Whether the status file contains `lastFound`. */
  let isPublished = false;
  let problemLog = EMPTY_PROBLEM_LOG;

  function log(logged: ReturnType<typeof logProblems>): void {
    problemLog = logged.log;
    for (const entry of logged.entries) logger.log(entry);
  }

  /** A full or read-only /run must not stop the forwards: the failure is logged, and the next pass tries again. */
  async function write(pass: number, diagnostics: readonly Diagnostic[]): Promise<void> {
    const problems = diagnostics.map(toPublishedProblem);
    const updatedAt = new Date(host.now()).toISOString();
    const status: DaemonStatus = {
      schema: STATUS_SCHEMA,
      ...identity,
      updatedAt,
      pass,
      ...lastFound,
      problems,
    };
    onStatus(status);
    isPublished = false;
    const failure = await tryToWrite(host, status);
    isPublished = failure === undefined;
    const all = failure === undefined ? problems : [...problems, toPublishedProblem(failure)];
    log(logProblems(problemLog, all, pass, host.now()));
  }

  return {
    logEntries: (entries) => log(limitEntries(problemLog, entries, host.now())),
    publish: async (pass, found, isAsBefore) => {
      // Another program that changes its rules all the time must not cause a write per pass.
      if (isAsBefore && isPublished && isDeepStrictEqual(found, lastFound)) return;
      lastFound = found;
      await write(pass, found.problems);
    },
    publishFailure: (pass, failure) => write(pass, [failure, ...lastFound.problems]),
  };
}

/** @returns why the status could not be written */
async function tryToWrite(
  host: PublisherOptions["host"],
  status: DaemonStatus,
): Promise<Diagnostic | undefined> {
  try {
    await host.writeStatus(status);
    return undefined;
  } catch (error) {
    if (error instanceof KvmnatdError) return error.toDiagnostic("warning");
    throw error;
  }
}
