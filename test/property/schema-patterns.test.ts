import * as fc from "fast-check";
import { expect, it } from "vitest";
import { parseMac } from "../../src/net/address.ts";
import { parseDuration } from "../../src/config/values/duration.ts";
import { parseEndpoint } from "../../src/config/values/endpoint.ts";
import { parseHostIp } from "../../src/config/values/listen-address.ts";
import { parsePortRange, parsePortText } from "../../src/config/values/port-syntax.ts";
import {
  DURATION_PATTERN,
  ENDPOINT_PATTERN,
  MAC_PATTERN,
  PORT_PATTERN,
  RANGE_PATTERN,
} from "../../src/config/schema/patterns.ts";

/** Text of the given pieces, so that much of it is nearly right. */
function textOf(...pieces: readonly string[]): fc.Arbitrary<string> {
  return fc.array(fc.constantFrom(...pieces), { maxLength: 7 }).map((parts) => parts.join(""));
}

function isPort(text: string): boolean {
  const reading = parsePortText(text);
  if ("fault" in reading) return false;
  const { hostIp } = reading.value;
  return hostIp === undefined || "value" in parseHostIp(hostIp, true);
}

const ranges = fc.constantFrom("22", "0x50", "0X1f", "022", "8-9", "0x8-9", "9-8", "22-", "70000", "");
/** In the order of the form, each part right or wrong by its own. */
const ports = fc
  .tuple(
    fc.constantFrom("", "", "10.0.0.1:", "0.0.0.0:", "[2001:db8::1]:", "[::]:", "2001:db8::1:", "eth0:", ":"),
    ranges,
    fc.constantFrom(":", ":", "-", ""),
    ranges,
    fc.constantFrom("", "/tcp", "/udp", "/sctp", "/both", "/", "/TCP"),
  )
  .map((parts) => parts.join(""));
const hex = fc.stringMatching(/^[0-9a-fA-F]{2}$/);
const macs = fc
  .tuple(fc.array(hex, { minLength: 5, maxLength: 7 }), fc.constantFrom(":", "-", ""))
  .map(([parts, separator]) => parts.join(separator));

// An editor that marks valid text would teach the admin to ignore it.
it.each<[string, string, fc.Arbitrary<string>, (text: string) => boolean]>([
  ["port", PORT_PATTERN, ports, isPort],
  [
    "range",
    RANGE_PATTERN,
    textOf("1", "20", "0x5", "-", "65535", ""),
    (text) => "value" in parsePortRange(text),
  ],
  ["MAC", MAC_PATTERN, macs, (text) => parseMac(text) !== undefined],
  [
    "duration",
    DURATION_PATTERN,
    textOf("0", "5", "24", "ms", "s", "m", "h", " "),
    (text) => "value" in parseDuration(text),
  ],
  [
    "metrics endpoint",
    ENDPOINT_PATTERN,
    fc
      .tuple(
        fc.constantFrom(
          "",
          ":",
          "10.0.0.1:",
          "0.0.0.0:",
          "localhost:",
          "[::1]:",
          "[10.0.0.1]:",
          "::1:",
          "eth0:",
        ),
        ranges,
      )
      .map((parts) => parts.join("")),
    (text) => "value" in parseEndpoint(text),
  ],
])("the pattern of a %s matches every text that its parser accepts", (_, pattern, texts, isAccepted) => {
  const matcher = new RegExp(pattern, "u");
  let accepted = 0;
  fc.assert(
    fc.property(texts, (text) => {
      if (!isAccepted(text)) return;
      accepted += 1;
      expect(text).toMatch(matcher);
    }),
    { numRuns: 5000 },
  );
  expect(accepted).toBeGreaterThan(20);
});
