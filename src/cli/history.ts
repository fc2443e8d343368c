import { formatPorts, formatHostPort } from "../net/address.ts";
import { readHistory } from "../history/holdings.ts";
import type { GuestEvent, History, Holding } from "../history/holdings.ts";
import { selectHistory } from "../history/filter.ts";
import type { Selection } from "../history/filter.ts";
import { printable } from "../sanitize.ts";
import { EXIT } from "../errors.ts";
import { readJournal } from "../host/systemd/journal-reader.ts";
import { readLiveStatus } from "../host/files/status-file.ts";
import { readTime } from "../host/systemd/parse-time.ts";
import type { Context } from "./context.ts";
import { printJson } from "./context.ts";
import { renderTable, shortTime } from "./table.ts";

/** As they were written on the command line. */
export interface HistoryOptions {
  readonly guest?: string;
  readonly port?: string;
  readonly since?: string;
  readonly until?: string;
  readonly at?: string;
  readonly journalDir?: string;
}

/** `kvmnatd history`: who had which port when, as far as the journal goes back. */
export async function history(context: Context, options: HistoryOptions): Promise<number> {
  const selection = await readSelection(options);
  if (typeof selection === "string") {
    context.complain(`kvmnatd: ${selection}`);
    return EXIT.usage;
  }
  // The status is read before the journal, so that the journal has the end of what ends in between.
  const daemon =
    options.journalDir === undefined ? await readLiveStatus(context.paths.runtimeDir) : undefined;
  const { entries, boots } = await readJournal(options.journalDir);
  const whole = readHistory(entries, boots, daemon);
  const found = selectHistory(whole, selection);
  if (context.json) printJson(context, toJson(found));
  else printHistory(context, found, options);
  return EXIT.ok;
}

/** @returns what is wrong with it, as text */
async function readSelection({ guest, port, since, until, at }: HistoryOptions): Promise<Selection | string> {
  const [, number, protocol] = /^(\d{1,5})(?:\/(tcp|udp|sctp))?$/.exec(port ?? "") ?? [];
  if (port !== undefined && (number === undefined || Number(number) < 1 || Number(number) > 65535))
    return `--port ${printable(port)} is not a valid port (1-65535); write 1122, or 53/udp`;
  const times: { sinceMs: number | undefined; untilMs: number | undefined } = {
    sinceMs: undefined,
    untilMs: undefined,
  };
  for (const [name, text] of Object.entries({ since, until, at })) {
    if (text === undefined) continue;
    const ms = await readTime(text);
    if (ms === undefined)
      return `--${name} "${printable(text)}" is not a time; write 03:00, "2026-11-23 03:00", yesterday, -2h or "2h ago"`;
    if (name === "at" && ms > Date.now())
      return `--at ${printable(text)} is in the future: it is ${shortTime(ms)}; write the day before it`;
    if (name !== "until") times.sinceMs = ms;
    if (name !== "since") times.untilMs = ms;
  }
  return {
    ...times,
    guest,
    port: number === undefined ? undefined : Number(number),
    protocol,
  };
}

function toJson({ beginsMs, holdings, events }: History): object {
  const iso = (ms: number | undefined): string | null =>
    ms === undefined ? null : new Date(ms).toISOString();
  return {
    beginsAt: iso(beginsMs),
    holdings: holdings.map(({ published, fromMs, toMs, began = null, ended = null, ...rest }) => ({
      ...rest,
      published: formatPorts(published),
      from: iso(fromMs),
      to: iso(toMs),
      began,
      ended,
    })),
    events: events.map(({ atMs, ...rest }) => ({ at: iso(atMs), ...rest })),
  };
}

const HEAD = ["PUBLISHED", "GUEST", "TARGET", "FROM", "TO", "BEGAN", "ENDED"];

function printHistory(context: Context, found: History, { at }: HistoryOptions): void {
  const { print, complain } = context;
  const { beginsMs, holdings, events } = found;
  if (beginsMs === undefined)
    complain("kvmnatd: the journal has no entry of kvmnatd (`journalctl -u kvmnatd`)");
  else complain(`kvmnatd: the journal has entries of kvmnatd since ${shortTime(beginsMs)}`);
  const cells = holdings.map((holding) => toCells(holding, beginsMs));
  if (cells.length === 0) print(`no forward ${at === undefined ? "matches in the log" : "was there then"}`);
  else print(renderTable(HEAD, cells));
  const others = at === undefined ? events.filter((event) => !isShown(event, holdings)) : [];
  if (others.length === 0) return;
  print("");
  for (const { atMs, message } of others) print(`${shortTime(atMs)}  ${printable(message, 1000)}`);
}

/** Whether the reason of a holding has the event already. */
function isShown({ message, guest }: GuestEvent, holdings: readonly Holding[]): boolean {
  return holdings.some(
    (holding) =>
      holding.guest === guest &&
      [holding.began, holding.ended].some((reason) => reason !== undefined && message.includes(reason.why)),
  );
}

function toCells(
  { guest, family, protocol, published, listen, target, fromMs, toMs, began, ended }: Holding,
  beginsMs: number | undefined,
): readonly string[] {
  const host = listen ?? (family === 6 ? "::" : "*");
  const earlier = beginsMs === undefined ? "before" : `before ${shortTime(beginsMs)}`;
  const reason = (given: Holding["began"]): string =>
    given === undefined
      ? "-"
      : printable(given.trigger === null ? given.why : `${given.why} (${given.trigger})`, 200);
  return [
    `${formatHostPort(host, formatPorts(published))}/${protocol}`,
    printable(guest, 40),
    target,
    fromMs === undefined ? earlier : shortTime(fromMs),
    toMs === undefined ? "now" : shortTime(toMs),
    reason(began),
    reason(ended),
  ];
}
