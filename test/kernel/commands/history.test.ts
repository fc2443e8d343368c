import { resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { PROGRAM, until } from "../../support/lab.ts";
import type { LabProcess } from "../../support/lab.ts";
import { leaseRow, WEB } from "../../support/world.ts";

const LAUNCHER = resolve(import.meta.dirname, "../../../packaging/files/with-sockets");
/** As systemd starts a service: its output is journald's, and it is told so. */
const AS_SERVICE =
  'exec 3>&1; JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/3); export JOURNAL_STREAM; exec "$@" 3>&-';
const SOON = { timeout: 120_000 };
const JOURNALD_CONF = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\nRateLimitIntervalSec=0\n";

interface Shown {
  readonly beginsAt: string | null;
  readonly holdings: readonly {
    readonly guest: string;
    readonly published: string;
    readonly target: string;
    readonly from: string | null;
    readonly to: string | null;
    readonly began: { readonly why: string; readonly trigger: string | null } | null;
    readonly ended: { readonly why: string; readonly trigger: string | null } | null;
  }[];
  readonly events: readonly { readonly at: string; readonly guest: string; readonly event: string | null }[];
}

let world: DaemonWorld;
let journald: LabProcess;

beforeAll(async () => {
  world = await createDaemonWorld();
  await world.lab.exec(
    [
      "sh",
      "-c",
      // journald reads there which unit an entry is from.
      `mount -t cgroup2 cgroup2 /sys/fs/cgroup
       [ ! -d /var/log/journal ] || mount -t tmpfs tmpfs /var/log/journal
       mkdir -p /run/systemd/journald.conf.d && cat >/run/systemd/journald.conf.d/test.conf`,
    ],
    { input: JOURNALD_CONF },
  );
  await startJournald();
});
afterAll(() => world.close());

async function startJournald(): Promise<void> {
  await world.lab.exec(["mkdir", "-p", "/run/log/journal", "/run/systemd/journal"]);
  await world.lab.exec(["rm", "-f", "/run/systemd/journal/socket"]);
  journald = world.lab.spawn(["env", "-u", "RUNTIME_DIRECTORY", "/lib/systemd/systemd-journald"]);
  await until("journald is there", async () => {
    const { exitCode } = await world.lab.exec(["test", "-S", "/run/systemd/journal/socket"], {
      check: false,
    });
    return exitCode === 0;
  });
}

/** The daemon with its log in the journal, with fields or without. */
async function start(...launcher: readonly string[]): Promise<() => Promise<void>> {
  const run = [process.execPath, PROGRAM, "run", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
  const daemon = world.lab.spawn([
    "systemd-cat",
    "-t",
    "kvmnatd",
    "sh",
    "-c",
    AS_SERVICE,
    "sh",
    ...launcher,
    ...run,
  ]);
  const stop = async (): Promise<void> => {
    await daemon.kill("SIGTERM");
    await daemon.exited;
  };
  // A test that fails must not leave its daemon to the next one.
  onTestFinished(stop);
  await world.isWell();
  await world.settles();
  return stop;
}

async function history(...options: readonly string[]): Promise<Shown> {
  const { stdout, stderr, exitCode } = await world.lab.kvmnatd(["history", "--json", ...options]);
  expect({ stderr, exitCode }).toEqual({ stderr: "", exitCode: 0 });
  return JSON.parse(stdout) as Shown;
}

const targets = ({ holdings }: Shown): readonly string[] => holdings.map(({ target }) => target);

describe("kvmnatd history, from a real journal", () => {
  let movedAt: string;

  it("shows a guest that moves, and a repaired rule", async () => {
    const stop = await start("perl", LAUNCHER);
    await world.leases({ ...leaseRow(WEB), "ip-address": "192.168.122.57" });
    await expect.poll(async () => targets(await history("--guest", "web")), SOON).toHaveLength(2);
    await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "KVMNATD-DNAT"]);
    await expect
      .poll(async () => (await history("--guest", "web")).events.map(({ event }) => event), SOON)
      .toContain("rules-changed");
    const { holdings, beginsAt } = await history("--port", "1122/tcp");
    expect(holdings).toMatchObject([
      {
        guest: "web",
        published: "1122",
        target: "192.168.122.11:22",
        // Its first pass may have more reasons: the addresses of the world are new.
        began: { why: "forwarded to 192.168.122.11", trigger: expect.stringMatching(/^start\b/) as string },
        ended: { why: "192.168.122.11 -> 192.168.122.57", trigger: "virbr0.status" },
      },
      {
        target: "192.168.122.57:22",
        to: null,
        began: { why: "192.168.122.11 -> 192.168.122.57", trigger: "virbr0.status" },
        ended: null,
      },
    ]);
    movedAt = holdings[1]?.from ?? "";
    expect(Date.parse(beginsAt ?? "")).toBeLessThan(Date.parse(movedAt));
    await stop();
  });

  it("reads lines without fields too, and takes a restart for no change", async () => {
    const stop = await start();
    await world.configure("guests:\n  web: {ports: [1122:22]}\n");
    await expect.poll(async () => (await history("--guest", "db")).holdings[0]?.to, SOON).toMatch(/Z$/);
    expect((await history("--guest", "db")).holdings).toMatchObject([
      { target: "192.168.122.12:22", ended: { why: "no longer published", trigger: "config" } },
    ]);
    expect(targets(await history("--guest", "web"))).toEqual(["192.168.122.11:22", "192.168.122.57:22"]);
    await stop();
  });

  it("shows which guest had a port at a given time", async () => {
    const at = (seconds: number): string => `@${Date.parse(movedAt) / 1000 + seconds}`;
    expect(targets(await history("--port", "1122", "--at", at(-0.01)))).toEqual(["192.168.122.11:22"]);
    expect(targets(await history("--port", "1122", "--at", at(0.01)))).toEqual(["192.168.122.57:22"]);
    expect(targets(await history("--port", "1122", "--since", at(0.01)))).toEqual(["192.168.122.57:22"]);
    expect(targets(await history("--port", "1122", "--at", "2 weeks ago"))).toEqual([]);
    expect(targets(await history("--port", "9", "--until", "now"))).toEqual([]);
  });

  it("prints a table", async () => {
    const { stdout, stderr, exitCode } = await world.lab.kvmnatd(["history", "--port", "1122"]);
    expect(exitCode).toBe(0);
    expect(stderr).toMatch(/^kvmnatd: the journal has entries of kvmnatd since 20\d\d-/);
    const time = String.raw`20\d\d-\d\d-\d\d \d\d:\d\d:\d\d`;
    expect(stdout).toMatch(
      new RegExp(`^\\*:1122/tcp +web +192\\.168\\.122\\.11:22 +${time} +${time} +forwarded`, "m"),
    );
    expect(stdout).toMatch(new RegExp(`^\\*:1122/tcp +web +192\\.168\\.122\\.57:22 +${time} +now `, "m"));
    expect(stdout).toMatch(new RegExp(`^${time}  web: rules brought up to date`, "m"));
  });

  it("reports that it may not read the journal", async () => {
    const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    const { stderr, exitCode } = await world.lab.exec([...nobody, process.execPath, PROGRAM, "history"], {
      check: false,
    });
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/permission denied; run as root, or be a member of the group systemd-journal/);
  });

  it("reports forwards that are older than the journal", async () => {
    const stop = await start();
    await journald.kill("SIGTERM");
    await journald.exited;
    await world.lab.exec(["rm", "-rf", "/run/log/journal"]);
    await startJournald();
    expect((await history()).holdings).toMatchObject([
      { guest: "web", published: "1122", target: "192.168.122.57:22", from: null, to: null },
    ]);
    const { stderr, exitCode } = await world.lab.kvmnatd(["history"]);
    expect({ stderr, exitCode }).toEqual({
      stderr: "kvmnatd: the journal has no entry of kvmnatd (`journalctl -u kvmnatd`)\n",
      exitCode: 0,
    });
    await stop();
  });

  it("shows changes made by hand", async () => {
    await world.lab.kvmnatd(["teardown"]);
    await expect
      .poll(async () => (await history("--port", "1122")).holdings, SOON)
      .toMatchObject([
        {
          target: "192.168.122.57:22",
          from: null,
          ended: { why: "all rules of kvmnatd: removed", trigger: "kvmnatd teardown" },
        },
      ]);
    await world.lab.kvmnatd(["apply", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
    await expect
      .poll(async () => (await history("--port", "1122")).holdings, SOON)
      .toMatchObject([
        { from: null },
        {
          target: "192.168.122.57:22",
          to: null,
          began: { why: "forwarded to 192.168.122.57", trigger: "apply" },
        },
      ]);
  });

  it("shows rules that the daemon removed when it stopped", async () => {
    await world.configure("on_stop: remove\nguests:\n  web: {ports: [1122:22]}\n");
    const stop = await start("perl", LAUNCHER);
    await stop();
    await expect
      .poll(async () => (await history("--port", "1122")).holdings.at(-1), SOON)
      .toMatchObject({
        target: "192.168.122.57:22",
        ended: { why: "all rules of kvmnatd: removed", trigger: "on_stop: remove" },
      });
  });

  it.each([
    [["--at", "soon"], /--at "soon" is not a time; write 03:00/],
    [["--at", "tomorrow"], /--at tomorrow is in the future/],
    [["--port", "70000"], /--port 70000 is not a valid port/],
    [["--at", "-1h", "--since", "-2h"], /cannot be used with/],
  ])("refuses %j", async (options, message) => {
    const { stderr, exitCode } = await world.lab.kvmnatd(["history", ...options]);
    expect(stderr).toMatch(message);
    expect(exitCode).toBe(64);
  });
});

it("reports that there is no such journal", async () => {
  const { stderr, exitCode } = await world.lab.kvmnatd(["history", "--journal-dir", `${world.lab.dir}/none`]);
  expect(stderr).toMatch(/the journal cannot be read: journalctl .*none: No such file or directory/);
  expect(exitCode).toBe(1);
});
