import { fstatSync } from "node:fs";
import pino from "pino";
import type { DestinationStream, Logger as PinoLogger } from "pino";
import pretty from "pino-pretty";
import type { LogEntry, LogLevel } from "../core/narrate.ts";
import type { Logger } from "../ports.ts";

/** syslog's priorities, which journald reads from `<N>` at the start of a line. */
const PRIORITIES: Readonly<Record<string, number>> = {
  fatal: 2,
  error: 3,
  warn: 4,
  info: 6,
  debug: 7,
  trace: 7,
};

export type LogFormat = "pretty" | "journal" | "json";

/** Where the lines go: people, journald or a program. */
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

export function createLogger(format: LogFormat, level: LogLevel, color: boolean): Logger {
  // Synchronous: the last lines before an end matter most.
  const stdout = pino.destination({ fd: 1, sync: true });
  const options = { level, base: null };
  const logger = pino(options, destinationOf(format, stdout, color));
  return wrap(logger);
}

function destinationOf(format: LogFormat, stdout: DestinationStream, color: boolean): DestinationStream {
  switch (format) {
    case "json":
      return stdout;
    case "pretty":
      return pretty({
        destination: stdout,
        colorize: color,
        sync: true,
        translateTime: "SYS:HH:MM:ss",
        ignore: "event,guest,rule,action,pass,reason",
      });
    case "journal":
      return journalLines(stdout);
  }
}

function journalLines(stdout: DestinationStream): DestinationStream {
  return {
    write(line: string): void {
      const { level, msg } = JSON.parse(line) as { readonly level: number; readonly msg: string };
      stdout.write(`<${PRIORITIES[pino.levels.labels[level] ?? "info"]}>${msg}\n`);
    },
  };
}

function wrap(logger: PinoLogger): Logger {
  return {
    log({ level, message, ...fields }: LogEntry): void {
      logger[level](fields, message);
    },
    setLevel(level: LogLevel): void {
      logger.level = level;
    },
  };
}
