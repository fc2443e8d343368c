import { z } from "zod";
import { DURATION_PATTERN, ENDPOINT_PATTERN, MAC_PATTERN, PORT_PATTERN, RANGE_PATTERN } from "./patterns.ts";

export interface RawPort {
  readonly published: string;
  readonly target: string;
  readonly host_ip?: string | undefined;
  readonly protocol?: string | undefined;
  readonly allow?: readonly string[] | undefined;
}

export interface RawGuest {
  readonly domain?: string | undefined;
  readonly mac?: string | undefined;
  readonly address?: string | undefined;
  readonly hostname?: string | undefined;
  readonly network?: string | undefined;
  readonly allow?: readonly string[] | undefined;
  readonly ports?: ReadonlyArray<string | RawPort> | null | undefined;
  readonly reserve?: string | undefined;
}

/** A config of the right shape, not yet checked any further. */
export interface RawConfig {
  readonly listen?: string | readonly string[] | undefined;
  readonly networks?: readonly string[] | undefined;
  readonly guests: Readonly<Record<string, RawGuest | null>>;
  readonly reach?:
    | {
        readonly guests?: string | undefined;
        readonly host?: string | undefined;
        readonly loopback?: string | undefined;
      }
    | undefined;
  readonly resync?: string | undefined;
  readonly linger?: string | undefined;
  readonly on_stop?: "keep" | "remove" | undefined;
  readonly iptables?: "auto" | "nft" | "legacy" | undefined;
  readonly metrics?: string | undefined;
  readonly sources?: ReadonlyArray<Readonly<Record<string, unknown>>> | undefined;
  readonly log_level?: "trace" | "debug" | "info" | "warn" | "error" | "fatal" | undefined;
}

export type SchemaIssue = z.core.$ZodIssue;

/*
 * The shape of the config, and nothing of its meaning: that is parse-port-map.ts.
 * Every scalar comes as the text that is written (see yaml/document.ts), so all are strings here. An editor
 * reads YAML's own types, so the JSON Schema says "or a number" where people leave out quotes.
 */
const word = (): z.ZodString => z.string().meta({ type: ["string", "number", "boolean"] });
const port = (): z.ZodString =>
  z.string().meta({ type: ["string", "integer"], pattern: RANGE_PATTERN, minimum: 1, maximum: 65_535 });

// JSON Schema's patterns have no flag to ignore case.
const BOOLEAN = ["true", "false", "on", "off", "yes", "no"].map((text) =>
  Array.from(text, (letter) => `[${letter}${letter.toUpperCase()}]`).join(""),
);
const flag = (): z.ZodString =>
  z
    .string()
    .regex(new RegExp(`^(${BOOLEAN.join("|")})$`), "write true or false")
    .meta({ type: ["boolean", "string"] });

const allow = z
  .array(z.string())
  .min(
    1,
    "an empty allow lets no client in; remove the key to let every client in, or name sources like [10.0.0.0/8]",
  );

const portSchema = z.strictObject({
  published: port().describe("Port of the host, or a range such as 30000-30099."),
  target: port().describe("Port of the guest, or a range as long as the published one."),
  host_ip: z
    .string()
    .optional()
    .describe("Address of the host, or name of an interface, to publish on in place of listen."),
  protocol: z
    .enum(["tcp", "udp", "sctp", "both"])
    .optional()
    .describe("Protocol; both is tcp and udp. Default: tcp."),
  allow: allow.optional().describe("Sources let in to this port, in place of the guest's allow."),
});

const guestSchema = z.strictObject({
  domain: word().optional().describe("libvirt's name of the guest. Default: the key."),
  mac: z
    .string()
    .optional()
    .describe("The guest's MAC address; the key is a label then.")
    .meta({ pattern: MAC_PATTERN }),
  address: z.string().optional().describe("The guest's fixed IPv4 or IPv6 address, when it has no lease."),
  hostname: word()
    .optional()
    .describe(
      "The DHCP name that the guest itself sends: any guest can claim it, so use it among friends only.",
    ),
  network: word().optional().describe("The bridge to look for the guest on. Default: every served one."),
  allow: allow
    .optional()
    .describe("Sources let in, as addresses or networks such as 10.0.0.0/8. Default: everyone."),
  ports: z
    .array(
      z.union([
        z
          .string()
          .describe("[HOST_IP:]PUBLISHED[-END]:TARGET[-END][/tcp|udp|sctp|both], such as 1122:22.")
          .meta({
            pattern: PORT_PATTERN,
            examples: ["1122:22", "192.168.1.101:5353:53/udp", "30000-30099:40000-40099/udp"],
          }),
        portSchema,
      ]),
    )
    .nullable()
    .optional()
    .describe("Ports to publish, in the syntax of a Compose file."),
  reserve: z
    .string()
    .optional()
    .describe("A libvirt DHCP reservation for this address, kept in place. Not supported yet."),
});

const reachSchema = z.strictObject({
  guests: flag()
    .optional()
    .describe("Guests reach the published ports too, their own included. Default: true."),
  host: flag().optional().describe("The host reaches them on its own addresses. Default: true."),
  loopback: flag().optional().describe("The host reaches them on 127.0.0.1 too. Default: false."),
});

const sourceSchema = z.strictObject({
  interface: z.string().describe("The interface that this dnsmasq serves."),
  leases: z.string().optional().describe("Its lease file."),
  ethers: z.string().optional().describe("A file such as /etc/ethers."),
  hosts: z.string().optional().describe("A file such as /etc/hosts."),
});

const configSchema = z.strictObject({
  listen: z
    .union([
      z.string(),
      z.array(z.string()).min(1, "an empty list publishes on no address; remove the key for every address"),
    ])
    .optional()
    .describe(
      "Addresses of the host (0.0.0.0 and :: are all of their family) or names of interfaces that ports are published on. Default: every IPv4 address.",
    ),
  networks: z
    .array(word())
    .min(1, "an empty list serves no bridge; remove the key to serve every one")
    .optional()
    .describe("Bridges to serve, such as virbr0. Default: every bridge with a lease file of libvirt's."),
  guests: z
    .record(z.string(), guestSchema.nullable())
    .describe("The guests, by libvirt domain name or label."),
  reach: reachSchema.optional().describe("Access to the published ports beside that of other machines."),
  resync: z.string().optional().describe("Cron expression of the full verify. Default: */5 * * * *."),
  linger: z
    .string()
    .optional()
    .describe("How long a forward stays after its lease vanished: 500ms, 5s, 2m, 1h or 0. Default: 5s.")
    // 0 is the only number that needs no unit.
    .meta({ type: ["string", "integer"], pattern: DURATION_PATTERN, minimum: 0, maximum: 0 }),
  on_stop: z
    .enum(["keep", "remove"])
    .optional()
    .describe("What becomes of the rules when the daemon stops. Default: keep."),
  iptables: z
    .enum(["auto", "nft", "legacy"])
    .optional()
    .describe("Which iptables to write. Default: auto, what iptables on this host is."),
  metrics: z
    .string()
    .optional()
    .describe("HOST:PORT at which Prometheus may ask; without HOST it is 127.0.0.1. Default: nowhere.")
    .meta({ type: ["string", "integer"], pattern: ENDPOINT_PATTERN, minimum: 1, maximum: 65_535 }),
  sources: z
    .array(sourceSchema)
    .optional()
    .describe("Further lease sources: a stand-alone dnsmasq. Not supported yet."),
  log_level: z
    .enum(["trace", "debug", "info", "warn", "error", "fatal"])
    .optional()
    .describe("The least severe messages that are logged. Default: info."),
}) satisfies z.ZodType<RawConfig>;

/** Compares a value with the shape of a config. */
export function checkSchema(value: unknown): readonly SchemaIssue[] {
  return configSchema.safeParse(value).error?.issues ?? [];
}

/** The keys that may stand in the mapping at a path. */
export function knownKeys(path: readonly PropertyKey[]): readonly string[] {
  if (path.length === 0) return Object.keys(configSchema.shape);
  if (path[0] === "reach") return Object.keys(reachSchema.shape);
  return Object.keys((path.length > 2 ? portSchema : guestSchema).shape);
}

/** JSON Schema (draft 7, which editors know) of the config. */
export function configJsonSchema(): Readonly<Record<string, unknown>> {
  return {
    title: "kvmnatd config",
    ...z.toJSONSchema(configSchema, { target: "draft-7", io: "input" }),
  };
}
