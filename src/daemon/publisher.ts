import { isDeepStrictEqual } from "node:util";
import type { LogEntry } from "../log/audit-entries.ts";
import { STATUS_SCHEMA, toPublishedProblem } from "../status/status.ts";
import type { DaemonStatus } from "../status/status.ts";
import { limitEntries, EMPTY_PROBLEM_LOG, logProblems } from "../log/problem-log.ts";
import type { ProblemLog } from "../log/problem-log.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host, Logger } from "../host-interface.ts";
import type { Diagnostic } from "../diagnostic.ts";

/** What stays the same in every status of one daemon. */
export type DaemonIdentity = Pick<DaemonStatus, "version" | "pid" | "startTicks" | "config" | "startedAt">;

/** What a whole pass found. */
export interface Found extends Pick<DaemonStatus, "iptables" | "forwards"> {
  readonly problems: readonly Diagnostic[];
}

/** Tells admins how things stand: by the status file and the log. */
export interface Publisher {
  /** Logs the work of a pass; repeated lines less and less often. */
  tell(entries: readonly LogEntry[]): void;
  /**
   * What a pass found, into status and log.
   * @param isAsBefore the pass found all inputs and rules as the one before: nothing is written if there is nothing new to be told
   */
  publish(pass: number, found: Found, isAsBefore: boolean): Promise<void>;
  /** That a pass could not look: what the last one found that could is not over, and the rules in the kernel are as they were. */
  publishFailure(pass: number, failure: Diagnostic): Promise<void>;
}

interface PublisherOptions {
  readonly host: Pick<Host, "now" | "writeStatus">;
  readonly logger: Logger;
  readonly identity: DaemonIdentity;
  /** Called with each state that is published. */
  readonly onStatus: (status: DaemonStatus) => void;
}

export function createPublisher({ host, logger, identity, onStatus }: PublisherOptions): Publisher {
  let known: Found = { iptables: null, forwards: [], problems: [] };
  /** Whether that is in the status file. */
  let isPublished = false;
  let problemLog: ProblemLog = EMPTY_PROBLEM_LOG;

  function log(logged: ReturnType<typeof logProblems>): void {
    problemLog = logged.log;
    for (const entry of logged.entries) logger.log(entry);
  }

  /** A full or read-only /run must not stop the forwards: told, tried again at the next pass. */
  async function write(pass: number, diagnostics: readonly Diagnostic[]): Promise<void> {
    const problems = diagnostics.map(toPublishedProblem);
    const updatedAt = new Date(host.now()).toISOString();
    const status: DaemonStatus = { schema: STATUS_SCHEMA, ...identity, updatedAt, pass, ...known, problems };
    onStatus(status);
    try {
      isPublished = false;
      await host.writeStatus(status);
      isPublished = true;
      log(logProblems(problemLog, problems, pass, host.now()));
    } catch (error) {
      if (!(error instanceof KvmnatdError)) throw error;
      const unwritten = toPublishedProblem(error.toDiagnostic("warning"));
      log(logProblems(problemLog, [...problems, unwritten], pass, host.now()));
    }
  }

  return {
    tell: (entries) => log(limitEntries(problemLog, entries, host.now())),
    publish: async (pass, found, isAsBefore) => {
      // Another program keeps changing its rules: there is nothing to publish.
      if (isAsBefore && isPublished && isDeepStrictEqual(found, known)) return;
      known = found;
      await write(pass, found.problems);
    },
    publishFailure: (pass, failure) => write(pass, [failure, ...known.problems]),
  };
}
