import { invalid } from "./result.ts";
import type { ParseResult } from "./result.ts";
import { printable } from "../../sanitize.ts";

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
const DAY_MS = 86_400_000;

/**
 * Parses `500ms`, `5s`, `2m`, `1h` or `0`; at most one day.
 * @returns milliseconds
 */
export function parseDuration(text: string): ParseResult<number> {
  if (/^0+$/.test(text)) return { value: 0 };
  if (/^\d+$/.test(text)) return invalid("duration-unit", `${text} has no unit; write ${text}s for seconds`);
  const [, count, unit] = /^(\d{1,9})(ms|s|m|h)$/.exec(text) ?? [];
  if (count === undefined || unit === undefined)
    return invalid("duration", `"${printable(text)}" is not a duration; write 500ms, 5s, 2m, 1h or 0`);
  const ms = Number(count) * (UNIT_MS[unit] ?? 0);
  return ms > DAY_MS
    ? invalid("duration-long", `${text} is more than one day; write at most 24h`)
    : { value: ms };
}
