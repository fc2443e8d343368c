import { writeFile } from "node:fs/promises";
import type { CountedForward } from "../../src/status/counters.ts";
import type { DaemonStatus } from "../../src/status/status.ts";
import { readStatusFile, startDaemon, untilStatus, writeConfig } from "./lab.ts";
import type { Daemon, LogLine } from "./lab.ts";
import { reload, settle } from "./settle.ts";
import { createWorld, DB, HOST, leaseRow, libvirtRules, NETWORKS, WEB } from "./world.ts";
import type { LeaseRow, World } from "./world.ts";

/** What `kvmnatd status --json` prints: the daemon's status, and what the command reads itself. */
interface ShownStatus extends DaemonStatus {
  readonly running: boolean;
  readonly forwards: readonly CountedForward[];
}

/** A world with libvirt's rules, guests `web` and `db` that serve, and a daemon. */
export interface DaemonWorld extends World {
  readonly config: string;
  start(env?: Readonly<Record<string, string>>): Promise<Daemon>;
  /**
   * Returns when the config on disk is in force, or rejected, after a whole pass. A status that held before the last step of
   * a test proves nothing of that step until then. The pass repairs rules too: a test that a daemon sees something by
   * itself waits for its effect first.
   */
  reload(): Promise<void>;
  /** Overwrites the config in place. */
  configure(text: string): Promise<void>;
  /** Both guests have their leases, or rows like these. */
  leases(web?: LeaseRow, db?: LeaseRow): Promise<void>;
  /** The status of the running daemon. @throws when there is none */
  status(): Promise<DaemonStatus>;
  /** `kvmnatd status --json` */
  shownStatus(): Promise<ShownStatus>;
  /** Waits for a state of a guest's forwards, in the daemon's own words. */
  becomes(guest: string, state: string, why?: RegExp): Promise<void>;
  /** Waits for a problem of this code to be told. */
  complains(code: string, message?: RegExp): Promise<void>;
  /** Waits until a daemon runs, all its forwards are active and it has no problem that is more than a warning. */
  isWell(): Promise<void>;
  /**
   * Returns when the daemon has seen everything that happened before, and has no second look at files pending: such a
   * look would see the next step of a test before its event arrives.
   */
  settles(): Promise<void>;
  /** The same, and the daemon has no pass pending for rules of other programs either. */
  idles(): Promise<void>;
  /** Asks guest `web` through the host. */
  web(): Promise<string>;
  rules(table: "nat" | "filter" | "raw"): Promise<string>;
  log(): readonly LogLine[];
  /** For a test that fails: prints what the daemons have logged. */
  printLog(): void;
  close(): Promise<void>;
}

/** Interval in which a pending second look is made: it comes 150 ms after an event. */
const SECOND_LOOK_MS = 250;
/**
 * Interval without a pass after which none is pending. A reload serves all requests and ends the longer gaps between passes
 * for rules of other programs; kvmnatd waits 200 ms for the events of its own changes.
 */
const QUIET_MS = 500;
/** The last retry of a failure is made up to 30 s after the one before it. */
const WELL_MS = 120_000;

export const GUESTS = "guests:\n  web: {ports: [1122:22]}\n  db: {ports: [1222:22]}\n";

export async function createDaemonWorld(
  variant: "nft" | "legacy" = "nft",
  rest = "linger: 500ms\n",
): Promise<DaemonWorld> {
  const world = await createWorld();
  const { lab } = world;
  const head = `iptables: ${variant}\n${rest}`;
  const config = await writeConfig(lab, head + GUESTS);
  await lab.exec([`iptables-${variant}-restore`, "--noflush"], {
    input: libvirtRules(NETWORKS),
  });
  await world.serve("web", "web", ["tcp:22", "udp:53"]);
  await world.serve("db", "db", ["tcp:22", "udp:53"]);
  await world.writeMacs("virbr0", { web: [WEB.mac], db: [DB.mac] });
  const daemons: Daemon[] = [];
  const log = (): readonly LogLine[] => daemons.flatMap((daemon) => daemon.log());
  const options = ["-c", config, "--dnsmasq-dir", world.dnsmasqDir];
  const leases = (web = leaseRow(WEB), db = leaseRow(DB)): Promise<void> =>
    world.writeLeases("virbr0", [web, db]);
  const status = async (): Promise<DaemonStatus> => {
    const found = await readStatusFile(lab);
    if (found === undefined) throw new Error("no daemon runs that has written its status");
    return found;
  };
  await leases();
  return {
    ...world,
    config,
    leases,
    status,
    shownStatus: async () =>
      JSON.parse((await lab.kvmnatd(["status", "--json", ...options])).stdout) as ShownStatus,
    start: async (env = {}) => {
      const daemon = await startDaemon(lab, options, env);
      daemons.push(daemon);
      return daemon;
    },
    configure: (text) => writeFile(config, head + text),
    becomes: (guest, state, why = /^/) =>
      untilStatus(`${guest} is ${state} (${String(why)})`, lab, ({ forwards }: DaemonStatus) => {
        const own = forwards.filter((forward) => forward.guest === guest);
        return own.length > 0 && own.every((each) => each.state === state && why.test(each.why ?? ""));
      }),
    complains: (code, message = /^/) =>
      untilStatus(`problem ${code} like ${String(message)}`, lab, ({ problems }: DaemonStatus) =>
        problems.some((problem) => problem.code === code && message.test(problem.message)),
      ),
    isWell: () => untilStatus("no problem is left", lab, isWell, WELL_MS),
    reload: () => reload(lab),
    settles: () => settle(lab, SECOND_LOOK_MS),
    idles: () => settle(lab, QUIET_MS),
    web: () => world.ask("client", "tcp", HOST, 1122),
    rules: async (table) => (await lab.exec([`iptables-${variant}-save`, "-t", table])).stdout,
    log,
    printLog: () =>
      console.error(
        log()
          .map(({ msg }) => msg.slice(0, 300))
          .join("\n"),
      ),
  };
}

function isWell({ problems, forwards }: DaemonStatus): boolean {
  return (
    forwards.length > 0 &&
    problems.every(({ severity }) => severity === "warning") &&
    forwards.every(({ state }) => state === "active")
  );
}
