import { cidrContains, familyOf, isLoopback, LOOPBACK, parseCidr, parseIp } from "../../net/address.ts";
import type { Cidr, Family, Ip } from "../../net/address.ts";
import { invalid } from "./result.ts";
import type { ParseError, ParseResult } from "./result.ts";
import { parseInterfaceName } from "./names.ts";
import { printable } from "../../sanitize.ts";

const ANY: Readonly<Record<string, Family>> = { "0.0.0.0": 4, "::": 6 };

/** Networks in which another machine can reach neither a host nor a guest. */
const UNREACHABLE: ReadonlyArray<readonly [net: Cidr, why: string]> = (
  [
    ["0.0.0.0/8", "is not an address of a host"],
    ["127.0.0.0/8", "is a loopback address"],
    ["224.0.0.0/4", "is a multicast address"],
    ["240.0.0.0/4", "is a broadcast or reserved address"],
    ["::/128", "is not an address of a host"],
    ["::1/128", "cannot be redirected by the kernel; publish on 127.0.0.1 with reach.loopback: true"],
    ["fe80::/10", "is a link-local address, which means another host on each link"],
    ["ff00::/8", "is a multicast address"],
    ["::ffff:0:0/96", "is an IPv4 address written as IPv6; write it as IPv4"],
  ] as const
).map(([net, why]) => [parseCidr(net) as Cidr, why]);

/**
 * Parses an entry of `listen`, or `host_ip` of the long form: an address or the name of an interface.
 * @param loopback whether `reach.loopback` is on
 */
export function parseListen(text: string, loopback: boolean): ParseResult<Listen> {
  if (parseIp(text) !== undefined) return parseHostIp(text, loopback);
  const name = looksLikeAddress(text) ? undefined : parseInterfaceName(text, "an interface");
  if (name !== undefined && "value" in name) return { value: { kind: "interface", name: name.value } };
  if (name?.fault.code === "interface-long") return name;
  return invalid(
    "listen",
    `"${printable(text)}" is neither an address nor the name of an interface${suggestBare(text)}`,
  );
}

/** Parses HOST_IP of the short form: one address of the host; `0.0.0.0` and `::` are all addresses of their family. */
export function parseHostIp(text: string, loopback: boolean): ParseResult<Listen> {
  const ip = parseIp(text);
  if (ip === undefined) {
    const name = looksLikeAddress(text) ? undefined : parseInterfaceName(text, "an interface");
    const hint =
      name !== undefined && "value" in name
        ? "; write an address (an interface goes into listen, or into host_ip of the long form)"
        : suggestBare(text);
    return invalid("host-ip", `"${printable(text)}" is not an address of the host${hint}`);
  }
  const family = ANY[ip];
  if (family !== undefined) return { value: { kind: "any", family } };
  const fault = checkReachable(ip, loopback);
  return fault === undefined ? { value: { kind: "address", address: ip } } : { fault };
}

/** Parses the address of a guest. */
export function parseGuestIp(text: string): ParseResult<Ip> {
  const ip = parseIp(text);
  if (ip === undefined)
    return invalid(
      "guest-address",
      `"${printable(text)}" is not an IPv4 or IPv6 address${suggestBare(text)}`,
    );
  const row = unreachable(ip);
  return row === undefined
    ? { value: ip }
    : invalid("guest-address", `${ip} cannot be a guest's address: it ${row[1]}`);
}

/** Returns an error when no service of this host can listen at the address. */
export function checkEndpointHost(ip: Ip): ReturnType<typeof invalid> | undefined {
  const row = unreachable(ip);
  if (row === undefined || ANY[ip] !== undefined || isLoopback(ip)) return undefined;
  return invalid("host-address", `${ip} ${row[1]}`);
}

/** Returns the possible families: an interface may have addresses of both. */
export function familiesOfListen(listen: Listen): readonly Family[] {
  if (listen.kind === "interface") return [4, 6];
  return [listen.kind === "any" ? listen.family : familyOf(listen.address)];
}

export function formatListen(listen: Listen): string {
  if (listen.kind === "any") return listen.family === 4 ? "0.0.0.0" : "::";
  return listen.kind === "address" ? listen.address : listen.name;
}

function checkReachable(ip: Ip, loopback: boolean): ParseError | undefined {
  const row = unreachable(ip);
  if (row === undefined || (ip === LOOPBACK && loopback)) return undefined;
  return { code: "host-address", message: describeUnreachable(ip, row[1]) };
}

function describeUnreachable(ip: Ip, why: string): string {
  if (ip === LOOPBACK) return `${ip} is published only with reach.loopback: true; set it`;
  const instead =
    familyOf(ip) === 4 && isLoopback(ip) ? `; publish on ${LOOPBACK} with reach.loopback: true` : "";
  return `${ip} ${why}${instead}`;
}

function unreachable(ip: Ip): readonly [net: Cidr, why: string] | undefined {
  return UNREACHABLE.find(([net]) => cidrContains(net, ip));
}

/** `eth0:1` is the alias of an interface; `300.1.1.1` and `2001:db8:::1` are invalid addresses. */
function looksLikeAddress(text: string): boolean {
  return /^[\d.]+$/.test(text) || (/^[\da-f:.]+$/i.test(text) && text.split(":").length > 2);
}

function suggestBare(text: string): string {
  const [address = "", ...rest] = text.split("/");
  const bracketed = /^\[(.*)\]$/.exec(text)?.[1];
  const meant = bracketed ?? (rest.length > 0 ? address : "");
  return parseIp(meant) === undefined ? "" : `; write ${meant} alone`;
}

/**
 * Where on the host a port is published: every local IPv4 or IPv6 address, one address,
 * or the current addresses of an interface.
 */
export type Listen =
  | { readonly kind: "any"; readonly family: Family }
  | { readonly kind: "address"; readonly address: Ip }
  | { readonly kind: "interface"; readonly name: string };
