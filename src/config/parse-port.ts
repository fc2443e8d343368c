import { distinctBy } from "../distinct-by.ts";
import { formatCidr, parseCidr } from "../net/address.ts";
import type { Cidr } from "../net/address.ts";
import { invalid } from "./values/result.ts";
import { formatListen, parseHostIp, parseListen } from "./values/listen-address.ts";
import type { Forward } from "./port-map.ts";
import { parsePortRange, parsePortText, PROTOCOLS, checkEqualLength } from "./values/port-syntax.ts";
import type { PortText } from "./values/port-syntax.ts";
import { printable } from "../sanitize.ts";
import type { DiagnosticCollector } from "./yaml/diagnostic-collector.ts";
import type { RawPort } from "./schema/schema.ts";
import type { ValidSubset } from "./schema/without-invalid.ts";
import type { Path } from "./yaml/tree.ts";
import type { Listen } from "./values/listen-address.ts";

/** Settings of a port that has none of its own. */
export interface PortDefaults {
  readonly guest: string;
  /** Undefined: the `listen` of the config is invalid. */
  readonly listen: readonly Listen[] | undefined;
  readonly allow: readonly Cidr[];
  /** Whether `reach.loopback` is on. */
  readonly loopback: boolean;
}

/**
 * Parses one entry of `ports`.
 * @returns one forward for each protocol; none when a value in it is invalid
 */
export function parseForwards(
  path: Path,
  entry: ValidSubset<string | RawPort>,
  defaults: PortDefaults,
  report: DiagnosticCollector,
): readonly Forward[] {
  const port =
    typeof entry === "string"
      ? report.valueOrDiagnostic(path, parsePortText(entry))
      : readLongForm(path, entry, report);
  const allow =
    typeof entry === "string" || entry.allow === undefined
      ? defaults.allow
      : parseAllow([...path, "allow"], entry.allow, report);
  const listen =
    typeof entry === "string"
      ? readShortListen(path, port?.hostIp, defaults, report)
      : readLongListen(path, entry, defaults, report);
  if (port === undefined || listen === undefined) return [];
  const where = report.place(path);
  const { published, target } = port;
  return port.protocols.map((protocol) => ({
    guest: defaults.guest,
    protocol,
    published,
    target,
    listen,
    allow,
    where,
  }));
}

/** Parses a list of sources and removes duplicates. */
export function parseAllow(
  path: Path,
  texts: ReadonlyArray<string | undefined>,
  report: DiagnosticCollector,
): readonly Cidr[] {
  const cidrs = texts.flatMap((text, index) => {
    if (text === undefined) return [];
    const cidr = parseCidr(text);
    const message = `"${printable(text)}" is not an address or a network; write one like 10.0.0.0/8 or 203.0.113.7`;
    return (
      report.valueOrDiagnostic([...path, index], cidr ? { value: cidr } : invalid("allow", message)) ?? []
    );
  });
  return distinctBy(cidrs, formatCidr);
}

function readLongForm(
  path: Path,
  entry: ValidSubset<RawPort>,
  report: DiagnosticCollector,
): PortText | undefined {
  const { published: publishedText, target: targetText, host_ip: hostIp, protocol = "tcp" } = entry;
  const published = readRange([...path, "published"], publishedText, report);
  const target = readRange([...path, "target"], targetText, report);
  if (published === undefined || target === undefined) return undefined;
  const unequal = checkEqualLength(published, target);
  if (unequal !== undefined) return report.valueOrDiagnostic([...path, "target"], unequal);
  const protocols = PROTOCOLS.get(protocol) ?? [];
  return { published, target, protocols, hostIp };
}

function readRange(
  path: Path,
  text: string | undefined,
  report: DiagnosticCollector,
): PortText["target"] | undefined {
  return text === undefined ? undefined : report.valueOrDiagnostic(path, parsePortRange(text));
}

/** Before the colon of the short form, a word is more often a mistake than an interface. */
function readShortListen(
  path: Path,
  hostIp: string | undefined,
  { listen, loopback }: PortDefaults,
  report: DiagnosticCollector,
): readonly Listen[] | undefined {
  if (hostIp === undefined) return listen;
  const own = report.valueOrDiagnostic(path, parseHostIp(hostIp, loopback));
  return own && [own];
}

function readLongListen(
  path: Path,
  entry: ValidSubset<RawPort>,
  { listen, loopback }: PortDefaults,
  report: DiagnosticCollector,
): readonly Listen[] | undefined {
  if (!Object.hasOwn(entry, "host_ip")) return listen;
  // An invalid type is reported already.
  if (entry.host_ip === undefined) return undefined;
  const own = report.valueOrDiagnostic([...path, "host_ip"], parseListen(entry.host_ip, loopback));
  return own && [own];
}

/** Removes duplicates. */
export function uniqueListens(listens: readonly Listen[]): readonly Listen[] {
  return distinctBy(listens, formatListen);
}
