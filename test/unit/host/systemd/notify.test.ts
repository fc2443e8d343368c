import { describe, expect, it } from "vitest";
import { createServiceManager, inheritSockets } from "../../../../src/host/systemd/notify.ts";

const PID = 4711;

describe("sockets that were handed over", () => {
  it.each([
    [
      "by systemd",
      { LISTEN_PID: `${PID}`, LISTEN_FDS: "2", LISTEN_FDNAMES: "notify:journal" },
      { notify: 3, journal: 4 },
    ],
    [
      "by systemd, beside others",
      { LISTEN_PID: `${PID}`, LISTEN_FDS: "2", LISTEN_FDNAMES: "x:journal" },
      { journal: 4 },
    ],
    ["by systemd, to another process", { LISTEN_PID: "1", LISTEN_FDNAMES: "notify:journal" }, {}],
    ["by the launcher", { KVMNATD_NOTIFY_FD: "5", KVMNATD_JOURNAL_FD: "6" }, { notify: 5, journal: 6 }],
    ["by a launcher that is no number", { KVMNATD_NOTIFY_FD: "x" }, {}],
    ["by nobody", {}, {}],
  ])("%s", (_what, given, expected) => {
    const env: NodeJS.ProcessEnv = { ...given };
    expect(inheritSockets(env, PID)).toEqual(expected);
  });

  it("are not told to the programs that are started", () => {
    const env: NodeJS.ProcessEnv = { PATH: "/bin", LISTEN_PID: "1", LISTEN_FDS: "1", KVMNATD_NOTIFY_FD: "5" };
    inheritSockets(env, PID);
    expect(env).toEqual({ PATH: "/bin" });
  });
});

describe("the watchdog", () => {
  const socket = { NOTIFY_SOCKET: "/run/systemd/notify" };

  it.each([
    ["is fed four times in its period", { ...socket, WATCHDOG_USEC: "60000000" }, 15_000],
    ["is another process's", { ...socket, WATCHDOG_USEC: "60000000", WATCHDOG_PID: "1" }, undefined],
    ["is off", socket, undefined],
    ["cannot be told", { WATCHDOG_USEC: "60000000" }, undefined],
  ])("%s", (_what, given, expected) => {
    expect(createServiceManager({ ...given }, {}, PID).aliveEveryMs).toBe(expected);
  });
});
