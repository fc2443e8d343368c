import { z } from "zod";
import type { CountedForward } from "./counters.ts";
import { STATUS_SCHEMA } from "./status.ts";
import type { DaemonStatus } from "./status.ts";

import type { PublishedProblem } from "./status.ts";

/*
 * Schema of status.json and of the output of `kvmnatd status --json`. Objects are loose: a new field does not change
 * the schema's version, and readers must accept it.
 */
const time = (): z.ZodString => z.string().meta({ format: "date-time" });

const count = (): z.ZodNumber => z.number().meta({ type: "integer", minimum: 0 });

/** A later kvmnatd may report codes that a reader does not know yet. */
type CodedProblem = Omit<PublishedProblem, "code"> & { readonly code: string };

const problemSchema = z.looseObject({
  code: z.string().describe("Stable, kebab-case; docs/status.md lists the codes."),
  message: z.string().describe("What is wrong and what to do; for people."),
  severity: z
    .enum(["error", "warning"])
    .describe("With a warning every forward works as configured, except as the message says."),
});

const forwardSchema = z.looseObject({
  guest: z.string().describe("The guest's key in the config."),
  protocol: z.enum(["tcp", "udp", "sctp"]).describe("A port of protocol `both` has a row for each protocol."),
  published: z.string().describe("Port of the host, or a range: 1122, 30000-30099."),
  target: z.string().describe("Port of the guest, or a range of the same length."),
  listen: z
    .array(z.string())
    .describe(
      "Addresses of the host; while the host has none of them, the addresses or interfaces of the config. Empty: every address of the family.",
    ),
  family: z.union([z.literal(4), z.literal(6)]).describe("4 for IPv4, 6 for IPv6."),
  state: z
    .enum(["active", "pending", "degraded"])
    .describe(
      "active: its rules are in the kernel; pending: it waits for its guest; degraded: its rules are not in the kernel, or have no effect.",
    ),
  address: z.string().nullable().describe("The guest's address; null while it is unknown."),
  mac: z.string().nullable().describe("The guest's MAC address; null without a lease."),
  why: z
    .string()
    .nullable()
    .describe("The reason if it is not active, or a note; null for none; for people."),
  leaseExpires: z
    .string()
    .nullable()
    // Not a date-time: a lease may end after the year 9999, the last that date-time allows.
    .describe("End of the lease, in ISO 8601; null without a lease and for an infinite one."),
  packets: count()
    .nullable()
    .optional()
    .describe(
      "Only in `status --json`: packets that opened connections; null without rules, or if the counters cannot be read.",
    ),
  bytes: count().nullable().optional().describe("Only in `status --json`: the bytes of these packets."),
}) satisfies z.ZodType<Omit<CountedForward, "packets" | "bytes">>;

const daemonSchema = z.looseObject({
  running: z.literal(true).optional().describe("Only in `status --json`: the daemon runs."),
  schema: z.literal(STATUS_SCHEMA).describe("Version of this schema; a new field does not change it."),
  version: z.string().describe("Version of kvmnatd."),
  pid: count().describe("Process id of the daemon."),
  startTicks: z
    .string()
    .describe(
      "The daemon's start in ticks since boot, which distinguishes it from a later process with the same pid.",
    ),
  config: z.string().describe("Path of the config."),
  startedAt: time().describe("When the daemon started."),
  updatedAt: time().describe("When the daemon wrote this status."),
  pass: count().describe("Number of the pass that wrote this status."),
  iptables: z
    .enum(["nft", "legacy"])
    .nullable()
    .describe("The iptables variant in use; null if none is usable."),
  problems: z.array(problemSchema).describe("What an admin should act on."),
  forwards: z.array(forwardSchema).describe("Every published port, a row for each protocol and family."),
}) satisfies z.ZodType<Omit<DaemonStatus, "problems"> & { readonly problems: readonly CodedProblem[] }>;

const noDaemonSchema = z
  .looseObject({
    running: z.literal(false).describe("No daemon runs."),
    problems: z.array(z.never()).describe("None are known."),
    forwards: z.array(z.never()).describe("None are known."),
  })
  .describe("Only in `status --json`, while no daemon runs.");

/** @returns the JSON Schema of status.json and of the output of `kvmnatd status --json` */
export function statusJsonSchema(): Readonly<Record<string, unknown>> {
  return {
    title: "kvmnatd status",
    ...z.toJSONSchema(z.union([daemonSchema, noDaemonSchema]), { target: "draft-7" }),
  };
}
