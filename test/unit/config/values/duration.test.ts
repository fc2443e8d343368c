import { expect, it } from "vitest";
import { parseDuration } from "../../../../src/config/values/duration.ts";

it.each([
  ["0", 0],
  ["0s", 0],
  ["500ms", 500],
  ["5s", 5000],
  ["2m", 120_000],
  ["24h", 86_400_000],
])("%s is %i ms", (text, expected) => {
  expect(parseDuration(text)).toEqual({ value: expected });
});

it.each([
  ["5", "duration-unit", "write 5s"],
  ["86401s", "duration-long", "one day"],
  ["99999999999h", "duration", "500ms"],
  ["1d", "duration", "1h"],
  ["1.5s", "duration", "500ms"],
  ["-5s", "duration", "500ms"],
  ["5 s", "duration", "500ms"],
  ["", "duration", "500ms"],
])("%j is rejected: %s", (text, code, hint) => {
  expect(parseDuration(text)).toMatchObject({ fault: { code, message: expect.stringContaining(hint) } });
});
