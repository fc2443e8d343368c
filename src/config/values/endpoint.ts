import { formatHostPort, LOOPBACK, parseIp } from "../../net/address.ts";
import type { Ip } from "../../net/address.ts";
import { invalid } from "./result.ts";
import type { ParseResult } from "./result.ts";
import { checkEndpointHost } from "./listen-address.ts";
import { parsePort } from "./port-syntax.ts";
import { printable } from "../../sanitize.ts";

/** Address and port at which a service of this host listens. */
export interface Endpoint {
  readonly host: Ip;
  readonly port: number;
}

/** Parses `HOST:PORT`, `[IPV6]:PORT`, `:PORT` or `PORT`; without HOST it is 127.0.0.1. */
export function parseEndpoint(text: string): ParseResult<Endpoint> {
  const groups = /^(?:(?:\[(?<v6>[^[\]]*)\]|(?<v4>[^:[\]]*)):)?(?<port>[^:[\]]*)$/.exec(text)?.groups;
  if (groups === undefined) return invalid("endpoint", describeEndpointError(text));
  const port = parsePort(groups["port"] ?? "", "write HOST:PORT like 127.0.0.1:9101");
  if ("fault" in port) return port;
  const host = parseHost(groups["v6"] ?? groups["v4"] ?? "", text);
  return "fault" in host ? host : { value: { host: host.value, port: port.value } };
}

export function formatEndpoint({ host, port }: Endpoint): string {
  return formatHostPort(host, port);
}

function parseHost(text: string, whole: string): ParseResult<Ip> {
  if ((text === "" && !whole.startsWith("[")) || text === "localhost") return { value: LOOPBACK };
  const ip = parseIp(text);
  if (ip !== undefined) return checkEndpointHost(ip) ?? { value: ip };
  const message = `"${printable(text)}" is not an address of the host; write one like 127.0.0.1:9101 or "[::1]:9101"`;
  return invalid("endpoint", message);
}

function describeEndpointError(text: string): string {
  return parseIp(text)?.includes(":") === true
    ? `"${printable(text)}" is an address without a port; write "[${text}]:9101"`
    : `"${printable(text)}" is not HOST:PORT; write 127.0.0.1:9101, "[::1]:9101" or :9101`;
}
