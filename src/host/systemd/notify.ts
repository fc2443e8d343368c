import { createDatagrams } from "./datagram-queue.ts";
import { runCommand } from "../exec/run-command.ts";
import { KvmnatdError } from "../../errors.ts";

/** First file descriptor that systemd passes to a service, sd_listen_fds(3). */
const FIRST_FD = 3;

/** Connected datagram sockets, because Node cannot connect one. */
export interface Sockets {
  readonly notify?: number;
  readonly journal?: number;
}

/**
 * Finds the sockets that this process inherited: from systemd (`OpenFile=`, systemd 253 and newer), or from the launcher
 * that starts kvmnatd under an older systemd (packaging/files/with-sockets). It deletes their environment variables, so
 * that no program that kvmnatd starts takes the sockets for its own.
 */
export function inheritSockets(env: NodeJS.ProcessEnv, pid: number): Sockets {
  const names = env["LISTEN_PID"] === `${pid}` ? (env["LISTEN_FDNAMES"] ?? "").split(":") : [];
  const notify = fdOf("notify", names, env["KVMNATD_NOTIFY_FD"]);
  const journal = fdOf("journal", names, env["KVMNATD_JOURNAL_FD"]);
  for (const name of HANDED_OVER) Reflect.deleteProperty(env, name);
  return { ...(notify === undefined ? {} : { notify }), ...(journal === undefined ? {} : { journal }) };
}

const HANDED_OVER = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "KVMNATD_NOTIFY_FD", "KVMNATD_JOURNAL_FD"];

function fdOf(name: string, names: readonly string[], launcher: string | undefined): number | undefined {
  const place = names.indexOf(name);
  if (place !== -1) return FIRST_FD + place;
  return launcher !== undefined && /^\d+$/.test(launcher) ? Number(launcher) : undefined;
}

/** Messages to systemd, as in sd_notify(3). */
export interface ServiceManager {
  /** The service works from now on. */
  ready(): void;
  /** Sets the line that `systemctl status` shows. */
  status(text: string): void;
  /** Reports that the loop makes progress; the calls reach systemd as often as its watchdog needs. */
  alive(): void;
  stopping(): void;
  /** Maximum interval between calls of {@link alive}, in ms; undefined without a watchdog. */
  readonly aliveEveryMs: number | undefined;
}

/** Twice per period, as sd_watchdog_enabled(3) recommends, and twice that for a busy host. */
const PINGS_A_PERIOD = 4;

/** @param pid of this process */
export function createServiceManager(
  env: NodeJS.ProcessEnv,
  { notify }: Sockets,
  pid: number,
): ServiceManager {
  const send = chooseSender(env, notify);
  const aliveEveryMs = send === undefined ? undefined : watchdogMs(env, pid);
  let lastPingMs = Number.NEGATIVE_INFINITY;
  let statusText = "";
  return {
    aliveEveryMs,
    ready: () => send?.("READY=1"),
    stopping: () => send?.("STOPPING=1"),
    status: (text) => {
      if (text !== statusText) send?.(`STATUS=${text}`);
      statusText = text;
    },
    alive: () => {
      if (aliveEveryMs === undefined || performance.now() - lastPingMs < aliveEveryMs / 2) return;
      lastPingMs = performance.now();
      send?.("WATCHDOG=1");
    },
  };
}

function watchdogMs(env: NodeJS.ProcessEnv, pid: number): number | undefined {
  const micros = Number(env["WATCHDOG_USEC"]);
  const mine = (env["WATCHDOG_PID"] ?? `${pid}`) === `${pid}`;
  return mine && micros > 0 ? micros / 1000 / PINGS_A_PERIOD : undefined;
}

type Sender = (state: string) => void;

function chooseSender(env: NodeJS.ProcessEnv, notify: number | undefined): Sender | undefined {
  const socket = env["NOTIFY_SOCKET"];
  Reflect.deleteProperty(env, "NOTIFY_SOCKET");
  if (notify !== undefined) {
    const datagrams = createDatagrams(notify);
    return (state) => datagrams.send(Buffer.from(state), () => undefined);
  }
  return socket === undefined || socket === "" ? undefined : sendByProgram(socket);
}

/** Without a connected socket a program sends the messages, in order; each takes 10 ms. */
function sendByProgram(socket: string): Sender {
  let last: Promise<unknown> = Promise.resolve();
  return (state) => {
    last = last
      .then(() => runCommand(["systemd-notify", state], { env: { NOTIFY_SOCKET: socket } }))
      .catch((error: unknown) => {
        // systemd itself ends a service whose message does not come, and logs that.
        if (!(error instanceof KvmnatdError)) throw error;
      });
  };
}
