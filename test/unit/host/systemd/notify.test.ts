import { describe, expect, it } from "vitest";
import { createServiceManager, inheritSockets } from "../../../../src/host/systemd/notify.ts";

const PID = 4711;

describe("sockets that the daemon inherits", () => {
  it.each([
    [
      "come from systemd",
      { LISTEN_PID: `${PID}`, LISTEN_FDS: "2", LISTEN_FDNAMES: "notify:journal" },
      { notify: 3, journal: 4 },
    ],
    [
      "come from systemd, beside other sockets",
      { LISTEN_PID: `${PID}`, LISTEN_FDS: "2", LISTEN_FDNAMES: "x:journal" },
      { journal: 4 },
    ],
    [
      "are none when systemd passed them to another process",
      { LISTEN_PID: "1", LISTEN_FDNAMES: "notify:journal" },
      {},
    ],
    [
      "come from the launcher",
      { KVMNATD_NOTIFY_FD: "5", KVMNATD_JOURNAL_FD: "6" },
      { notify: 5, journal: 6 },
    ],
    ["are none when the launcher's variable is not a number", { KVMNATD_NOTIFY_FD: "x" }, {}],
    ["are none without variables", {}, {}],
  ])("%s", (_what, given, expected) => {
    const env: NodeJS.ProcessEnv = { ...given };
    expect(inheritSockets(env, PID)).toEqual(expected);
  });

  it("are not in the environment of programs that kvmnatd starts", () => {
    const env: NodeJS.ProcessEnv = { PATH: "/bin", LISTEN_PID: "1", LISTEN_FDS: "1", KVMNATD_NOTIFY_FD: "5" };
    inheritSockets(env, PID);
    expect(env).toEqual({ PATH: "/bin" });
  });
});

describe("the watchdog", () => {
  const socket = { NOTIFY_SOCKET: "/run/systemd/notify" };

  it.each([
    ["is notified four times in its period", { ...socket, WATCHDOG_USEC: "60000000" }, 15_000],
    [
      "of another process is not notified",
      { ...socket, WATCHDOG_USEC: "60000000", WATCHDOG_PID: "1" },
      undefined,
    ],
    ["is not notified without WATCHDOG_USEC", socket, undefined],
    ["is not notified without NOTIFY_SOCKET", { WATCHDOG_USEC: "60000000" }, undefined],
  ])("%s", (_what, given, expected) => {
    expect(createServiceManager({ ...given }, {}, PID).aliveEveryMs).toBe(expected);
  });
});
