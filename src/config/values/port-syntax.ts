import type { PortRange, Protocol } from "../../net/address.ts";
import { invalid } from "./result.ts";
import type { ParseResult } from "./result.ts";
import { printable } from "../../sanitize.ts";

/** The parts of `[HOST_IP:]PUBLISHED[-END]:TARGET[-END][/PROTOCOL]`. */
export interface PortText {
  /** As written, without brackets; undefined: `listen` of the config. */
  readonly hostIp: string | undefined;
  readonly published: PortRange;
  readonly target: PortRange;
  readonly protocols: readonly Protocol[];
}

/** Protocols by their word in the config. */
export const PROTOCOLS: ReadonlyMap<string, readonly Protocol[]> = new Map([
  ["tcp", ["tcp"]],
  ["udp", ["udp"]],
  ["sctp", ["sctp"]],
  ["both", ["tcp", "udp"]],
]);

const SHORT = /^(?:(?:\[(?<v6>[^[\]]*)\]|(?<v4>[^:[\]]*)):)?(?<published>[^:[\]]*):(?<target>[^:[\]]*)$/;

/** Parses the short form of a port. */
export function parsePortText(text: string): ParseResult<PortText> {
  const [ports = "", protocol = "tcp", ...rest] = text.split("/");
  const protocols = PROTOCOLS.get(protocol);
  if (protocols === undefined || rest.length > 0) {
    const written = printable([protocol, ...rest].join("/"));
    return invalid("port-protocol", `/${written} is not a protocol; write /tcp, /udp, /sctp or /both`);
  }
  const groups = SHORT.exec(ports)?.groups;
  if (groups === undefined || /^[\d-]+$/.test(groups["v4"] ?? ""))
    return invalid("port-syntax", describePortError(text, ports));
  const published = parsePortRange(groups["published"] ?? "");
  if ("fault" in published) return published;
  const target = parsePortRange(groups["target"] ?? "");
  if ("fault" in target) return target;
  const unequal = checkEqualLength(published.value, target.value);
  if (unequal !== undefined) return unequal;
  const hostIp = groups["v6"] ?? groups["v4"];
  return { value: { hostIp, published: published.value, target: target.value, protocols } };
}

/** Parses `22`, `0x16` or `8000-8010`. */
export function parsePortRange(text: string): ParseResult<PortRange> {
  const [firstText = "", lastText = firstText, ...rest] = text.split("-");
  if (rest.length > 0)
    return invalid("port-syntax", `"${printable(text)}" is not a port range; write 8000-8010`);
  const first = parsePort(firstText);
  if ("fault" in first) return first;
  const last = parsePort(lastText);
  if ("fault" in last) return last;
  if (first.value > last.value)
    return invalid("port-reversed", `the range ${text} is reversed; write ${last.value}-${first.value}`);
  return { value: { first: first.value, last: last.value } };
}

/** Returns an error when the two ranges have different lengths. */
export function checkEqualLength(
  published: PortRange,
  target: PortRange,
): ReturnType<typeof invalid> | undefined {
  const [left, right] = [published, target].map((range) => range.last - range.first + 1);
  if (left === right) return undefined;
  return invalid(
    "port-unequal",
    `${left} published and ${right} target ports; both ranges must have equal length`,
  );
}

/**
 * Parses one port.
 * @param hint what to write when the port is missing
 */
export function parsePort(text: string, hint = "write PUBLISHED:TARGET like 1122:22"): ParseResult<number> {
  if (text === "") return invalid("port-syntax", `a port number is missing; ${hint}`);
  // YAML readers turn 0x50 into 80 wherever it stands alone; in `0x50:80` it means the same.
  if (!/^(\d+|0x[\da-f]+)$/i.test(text))
    return invalid("port-number", `"${printable(text)}" is not a valid port (1-65535)`);
  const port = Number(text);
  return port >= 1 && port <= 65_535
    ? { value: port }
    : invalid("port-number", `${printable(text, 20)} is not a valid port (1-65535)`);
}

function describePortError(text: string, ports: string): string {
  const written = printable(text);
  if (!ports.includes(":") && "value" in parsePortRange(ports))
    return `"${written}" has only one port; write ${ports}:${written} to publish it under the same number`;
  if (ports.includes("::") && !ports.includes("["))
    return `"${written}" is ambiguous; put an IPv6 address in brackets and quote it: "[::1]:80:80"`;
  const [published = "", target = "", ...more] = ports.split(":");
  if (more.length === 1 && /^[\d:-]+$/.test(ports)) {
    const meant = text.replace(ports, `${published}:${target}`);
    return `"${written}" has three ports; write ${meant}, preceded by nothing except an address of the host, as in 192.168.1.100:${meant}`;
  }
  return `"${written}" is not a port mapping; write [HOST_IP:]PUBLISHED[-END]:TARGET[-END][/PROTOCOL] like 1122:22`;
}
