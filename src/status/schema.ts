import { z } from "zod";
import type { CountedForward } from "./counters.ts";
import { STATUS_SCHEMA } from "./status.ts";
import type { DaemonStatus } from "./status.ts";

import type { PublishedProblem } from "./status.ts";

/*
 * The status, as status.json has it and `kvmnatd status --json`. Objects are loose: a field may be added under the
 * same number, and readers must accept it.
 */
const time = (): z.ZodString => z.string().meta({ format: "date-time" });

const count = (): z.ZodNumber => z.number().meta({ type: "integer", minimum: 0 });

/** There may be codes that a reader does not know yet. */
type CodedProblem = Omit<PublishedProblem, "code"> & { readonly code: string };

const problemSchema = z.looseObject({
  code: z.string().describe("Stable, kebab-case; docs/status.md has those that there are."),
  message: z.string().describe("What is wrong and what to do; for people."),
  severity: z
    .enum(["error", "warning"])
    .describe("A warning leaves every forward working, as asked but for what its message says."),
});

const forwardSchema = z.looseObject({
  guest: z.string().describe("The guest's key in the config."),
  protocol: z.enum(["tcp", "udp", "sctp"]).describe("One row each for the two of `both`."),
  published: z.string().describe("Port of the host, or a range: 1122, 30000-30099."),
  target: z.string().describe("Port of the guest, or a range as long."),
  listen: z
    .array(z.string())
    .describe(
      "Addresses of the host; while it has none of them, what the config names. Empty: every address of the family.",
    ),
  family: z.union([z.literal(4), z.literal(6)]).describe("4 for IPv4, 6 for IPv6."),
  state: z
    .enum(["active", "pending", "degraded"])
    .describe(
      "active: its rules are in the kernel; pending: it waits for its guest; degraded: they are not.",
    ),
  address: z.string().nullable().describe("The guest's address; null while nothing is known."),
  mac: z.string().nullable().describe("The guest's MAC address; null without a lease."),
  why: z.string().nullable().describe("Why it is not active, or what to know of it; for people."),
  leaseExpires: z
    .string()
    .nullable()
    // A lease may run beyond the year 9999, which no date-time can.
    .describe("When the lease ends, in ISO 8601; null: there is none, or it never does."),
  packets: count()
    .nullable()
    .optional()
    .describe("`status --json` alone: packets that opened connections; null where the kernel does not say."),
  bytes: count().nullable().optional().describe("`status --json` alone: the bytes of these packets."),
}) satisfies z.ZodType<Omit<CountedForward, "packets" | "bytes">>;

const daemonSchema = z.looseObject({
  running: z.literal(true).optional().describe("`status --json` alone: the daemon runs."),
  schema: z.literal(STATUS_SCHEMA).describe("Version of this shape: a field is added under the same number."),
  version: z.string().describe("Version of kvmnatd."),
  pid: count().describe("Process of the daemon."),
  startTicks: z
    .string()
    .describe("Its start in ticks since boot: tells it from a later process with its pid."),
  config: z.string().describe("File of the config."),
  startedAt: time().describe("When the daemon started."),
  updatedAt: time().describe("When this was written."),
  pass: count().describe("Number of the pass that wrote this."),
  iptables: z.enum(["nft", "legacy"]).nullable().describe("Which iptables is in use; null: none could be."),
  problems: z.array(problemSchema).describe("What an admin should act on."),
  forwards: z.array(forwardSchema).describe("Every published port, a row for each protocol and family."),
}) satisfies z.ZodType<Omit<DaemonStatus, "problems"> & { readonly problems: readonly CodedProblem[] }>;

const noDaemonSchema = z
  .looseObject({
    running: z.literal(false).describe("No daemon runs."),
    problems: z.array(z.never()).describe("None are known."),
    forwards: z.array(z.never()).describe("None are known."),
  })
  .describe("`status --json` alone, while no daemon runs.");

/** JSON Schema of status.json and of what `kvmnatd status --json` prints. */
export function statusJsonSchema(): Readonly<Record<string, unknown>> {
  return {
    title: "kvmnatd status",
    ...z.toJSONSchema(z.union([daemonSchema, noDaemonSchema]), { target: "draft-7" }),
  };
}
