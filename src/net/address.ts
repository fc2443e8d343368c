import ipaddr from "ipaddr.js";

/** 4 for IPv4, 6 for IPv6. */
export type Family = 4 | 6;

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** An IPv4 or IPv6 address in the text that the kernel's tools print (RFC 5952 for IPv6). */
export type Ip = Branded<"Ip">;

/** A 48-bit MAC, lower case, colons: `52:54:00:6c:3c:01`. */
export type Mac = Branded<"Mac">;

/** A network: its first address and prefix length. */
export interface Cidr {
  readonly family: Family;
  /** The network's own (first) address. */
  readonly base: Ip;
  readonly prefix: number;
}

/** Inclusive; `first === last` for a single port. Both 1-65535. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

export type Protocol = "tcp" | "udp" | "sctp";

/**
 * Reads an address. Only the four-part decimal form of IPv4 counts: `010.0.0.1`
 * and `0x7f.1` mean different hosts to different programs.
 */
export function parseIp(text: string): Ip | undefined {
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return ipaddr.IPv4.parse(text).toString() as Ip;
  if (!text.includes(":") || text.includes("%") || !ipaddr.IPv6.isValid(text)) return undefined;
  return ipaddr.IPv6.parse(text).toString() as Ip;
}

/** The only loopback address that kvmnatd redirects: not the rest of 127.0.0.0/8, and not `::1`. */
export const LOOPBACK: Ip = "127.0.0.1" as Ip;

/** Whether an address is in 127.0.0.0/8, or `::1`. */
export function isLoopback(ip: Ip): boolean {
  return familyOf(ip) === 4 ? ip.startsWith("127.") : ip === "::1";
}

export function familyOf(ip: Ip): Family {
  return ip.includes(":") ? 6 : 4;
}

/** Reads `10.0.0.0/8` or a bare address (a network of one). Host bits are cleared, as iptables does. */
export function parseCidr(text: string): Cidr | undefined {
  const [address, prefixText, ...rest] = text.split("/");
  const ip = address === undefined ? undefined : parseIp(address);
  if (ip === undefined || rest.length > 0) return undefined;
  const bits = familyOf(ip) === 4 ? 32 : 128;
  if (prefixText !== undefined && !/^\d{1,3}$/.test(prefixText)) return undefined;
  const prefix = prefixText === undefined ? bits : Number(prefixText);
  return prefix <= bits ? networkOf(ip, prefix) : undefined;
}

/** The network that an address with this prefix length lies in. */
export function networkOf(ip: Ip, prefix: number): Cidr {
  const family = familyOf(ip);
  const network =
    family === 4
      ? ipaddr.IPv4.networkAddressFromCIDR(`${ip}/${prefix}`)
      : ipaddr.IPv6.networkAddressFromCIDR(`${ip}/${prefix}`);
  return { family, base: network.toString() as Ip, prefix };
}

export function formatCidr(cidr: Cidr): string {
  return `${cidr.base}/${cidr.prefix}`;
}

export function cidrContains(cidr: Cidr, ip: Ip): boolean {
  return familyOf(ip) === cidr.family && ipaddr.parse(ip).match(ipaddr.parse(cidr.base), cidr.prefix);
}

/** Whether a guest cannot have it: the network's first address and, in IPv4, its broadcast address. */
export function isReservedIn(cidr: Cidr, ip: Ip): boolean {
  if (ip === cidr.base) return true;
  if (cidr.family === 6 || cidr.prefix >= 31) return false;
  return ip === ipaddr.IPv4.broadcastAddressFromCIDR(formatCidr(cidr)).toString();
}

/** Reads a MAC in any case with `:` or `-`. A guest cannot have a multicast or all-zero MAC. */
export function parseMac(text: string): Mac | undefined {
  if (!/^[0-9a-f]{2}([:-][0-9a-f]{2}){5}$/i.test(text)) return undefined;
  const mac = text.toLowerCase().replaceAll("-", ":");
  const multicast = (Number.parseInt(mac.slice(0, 2), 16) & 1) === 1;
  return multicast || mac === "00:00:00:00:00:00" ? undefined : (mac as Mac);
}

export function formatPorts(range: PortRange, separator = "-"): string {
  return range.first === range.last ? `${range.first}` : `${range.first}${separator}${range.last}`;
}

/** Reads what {@link formatPorts} wrote, or iptables with `:`. */
export function parsePorts(text: string, separator = "-"): PortRange {
  const [first = 0, last = first] = text.split(separator).map(Number);
  return { first, last };
}

/** `HOST:PORTS`, with an IPv6 address in brackets. */
export function formatHostPort(host: string, ports: string | number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${ports}`;
}

/** Addresses of the host's interfaces, link-local ones left out. */
export type HostAddresses = ReadonlyMap<string, readonly Ip[]>;
