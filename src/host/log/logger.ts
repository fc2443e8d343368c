import { fstatSync } from "node:fs";
import pino from "pino";
import type { DestinationStream, Logger as PinoLogger } from "pino";
import { prettyFactory } from "pino-pretty";
import type { EventCode } from "../../event-codes.ts";
import { catalogEntryFor } from "../../log/message-catalog.ts";
import type { LogEntry } from "../../log/audit-entries.ts";
import type { Logger } from "../../host-interface.ts";
import { createJournal } from "../systemd/journal-writer.ts";
import { createLineWriter, openStdout } from "./line-writer.ts";
import type { LineWriter } from "./line-writer.ts";
import type { Diagnostic } from "../../diagnostic.ts";
import { createWarning } from "../../diagnostic.ts";
import type { LogLevel } from "../../config/port-map.ts";

/** syslog's priorities; journald reads them from `<N>` at the start of a line. */
const PRIORITIES: Readonly<Record<string, number>> = {
  fatal: 2,
  error: 3,
  warn: 4,
  info: 6,
  debug: 7,
  trace: 7,
};

/** For people; as text for journald; for a program. */
export type LogFormat = "pretty" | "journal" | "json";

export function chooseFormat(env: NodeJS.ProcessEnv, isTerminal: boolean): LogFormat {
  if (isTerminal) return "pretty";
  return isJournal(env["JOURNAL_STREAM"]) ? "journal" : "json";
}

/** systemd sets JOURNAL_STREAM to the socket's device and inode; a child with a redirected stdout inherits the variable. */
function isJournal(stream: string | undefined): boolean {
  if (stream === undefined) return false;
  const { dev, ino } = fstatSync(1);
  return stream === `${dev}:${ino}`;
}

/** Timeout for the log's reader at the end of the process. */
const FLUSH_MS = 2000;

export interface LoggerOptions {
  readonly format: LogFormat;
  readonly level: LogLevel;
  readonly color: boolean;
  /** A socket that is connected to journald's own: entries then have fields (format `journal`). */
  readonly journalFd?: number | undefined;
  /** Called when {@link Logger.problem} changes. */
  readonly onProblem: () => void;
}

export interface ClosableLogger extends Logger {
  /** Writes the lines that wait, before the process ends; gives up on a reader that stands still. */
  flush(): Promise<void>;
}

/** Logs to standard output or to journald. Logging never blocks: lines that cannot be written yet are buffered. */
export function createLogger(options: LoggerOptions): ClosableLogger {
  const { level, onProblem } = options;
  const stdout = createLineWriter(openStdout(), {
    onDropped: (lines) => logDropped(logger, lines),
    onError: onProblem,
  });
  const { stream, flush = () => undefined } = destinationOf(options, stdout);
  const logger: Logger = wrap(pino({ level, base: null }, stream), () => problemOf(stdout.error()));
  return {
    ...logger,
    flush: async () => {
      flush();
      await stdout.flush(FLUSH_MS);
    },
  };
}

function logDropped(logger: Logger, lines: number): void {
  const message = `the log lost ${lines === 1 ? "1 line" : `${lines} lines`} here: its reader was too slow`;
  logger.log({ level: "warn", event: "log-lines-dropped", message });
}

function problemOf(error: string | undefined): Diagnostic | undefined {
  if (error === undefined) return undefined;
  const message =
    `the log cannot be written to standard output (${error}); up to 10 MB of lines are buffered and retried every ` +
    "second: make room for them, or restart kvmnatd with another standard output";
  return createWarning("log-write-failed", message);
}

interface Destination {
  readonly stream: DestinationStream;
  readonly flush?: () => void;
}

function destinationOf({ format, color, journalFd }: LoggerOptions, stdout: LineWriter): Destination {
  switch (format) {
    case "json":
      return { stream: stdout };
    case "pretty": {
      const toPretty = prettyFactory({
        colorize: color,
        translateTime: "SYS:HH:MM:ss",
        ignore: "event,guest,rule,action,pass,reason",
      });
      return { stream: { write: (line) => stdout.write(toPretty(line)) } };
    }
    case "journal":
      return journalFd === undefined
        ? { stream: { write: (line) => writeLine(stdout, line) } }
        : journalEntries(journalFd, stdout);
  }
}

/** An entry, as pino writes it. */
interface PinoLine {
  readonly level: number;
  readonly msg: string;
  readonly event: EventCode;
  readonly [field: string]: unknown;
}

function writeLine(stdout: LineWriter, line: string): void {
  const { level, msg } = JSON.parse(line) as PinoLine;
  const prefix = `<${priorityOf(level)}>`;
  stdout.write(`${msg.replaceAll(/^/gm, prefix)}\n`);
}

function journalEntries(fd: number, stdout: LineWriter): Destination {
  const journal = createJournal(fd);
  return {
    stream: {
      write(line) {
        const { level, msg, time: _journaldsOwn, ...rest } = JSON.parse(line) as PinoLine;
        const own = Object.entries(rest).map(([name, value]) => [
          `KVMNATD_${name.toUpperCase()}`,
          String(value),
        ]);
        const id = catalogEntryFor(rest.event)?.id;
        const fields: Record<string, string> = {
          MESSAGE: msg,
          // Selects the text of `journalctl -x`.
          ...(id === undefined ? {} : { MESSAGE_ID: id }),
          PRIORITY: `${priorityOf(level)}`,
          SYSLOG_IDENTIFIER: "kvmnatd",
          ...Object.fromEntries(own),
        };
        // An entry without its fields is better than none.
        journal.write(fields, () => writeLine(stdout, line));
      },
    },
    flush: () => journal.flush(),
  };
}

function priorityOf(level: number): number {
  return PRIORITIES[pino.levels.labels[level] ?? "info"] ?? 6;
}

function wrap(logger: PinoLogger, problem: Logger["problem"]): Logger {
  return {
    log({ level, message, ...fields }: LogEntry): void {
      logger[level](fields, message);
    },
    setLevel(level: LogLevel): void {
      logger.level = level;
    },
    problem,
  };
}
