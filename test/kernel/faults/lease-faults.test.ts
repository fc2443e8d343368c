import { chmod, chown, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { PROGRAM } from "../../support/lab.ts";
import type { Daemon } from "../../support/lab.ts";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { CLIENT, DB, leaseRow, leaseRow6, WEB } from "../../support/world.ts";
import type { LeaseRow } from "../../support/world.ts";

/** Faults of lease files: working forwards stay in force, kvmnatd reports the fault, and recovers when it ends. */
let world: DaemonWorld;
/** The daemon of the tests that start none themselves. */
let daemon: Daemon;
let file: string;
const WEB_ANSWERS = `web 22 ${CLIENT}`;

beforeAll(async () => {
  world = await createDaemonWorld();
  file = join(world.dnsmasqDir, "virbr0.status");
  daemon = await world.start();
});
beforeEach(async ({ onTestFailed }) => {
  await world.leases();
  await world.reload();
  await world.isWell();
  onTestFailed(() => world.printLog());
});
afterEach(async () => {
  await rm(file, { recursive: true, force: true });
  await world.leases();
  await world.reload();
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
  for (const { msg } of world.log()) {
    expect(msg).not.toMatch(/\p{Cc}/u);
    expect(msg.length).toBeLessThan(2000);
  }
});
afterAll(() => world.close());

async function put(content: string | Uint8Array): Promise<void> {
  await writeFile(`${file}.new`, content);
  await rename(`${file}.new`, file);
}

/** Writes the rows and one for db, and waits for db's rule, which proves that the daemon has read the rows. */
async function writeRows(rows: readonly LeaseRow[]): Promise<void> {
  await world.writeLeases("virbr0", [...rows, leaseRow({ mac: DB.mac, address: "192.168.122.99" })]);
  await expect.poll(() => world.rules("nat"), { timeout: 120_000 }).toContain("192.168.122.99");
  await world.reload();
  await world.becomes("db", "active");
}

describe("an unreadable lease file", () => {
  it.each([
    ["truncated", '[ { "ip-address": "192.168.122.11", "mac-'],
    ["not a list", '{"leases": []}'],
    ["text", "what?"],
    ["50 MB", " ".repeat(50_000_000)],
    ["binary", new Uint8Array([0, 255, 254, 1, 2, 3])],
  ])("(%s) is reported, and the last good leases stay in force", async (_what, content) => {
    await put(content);
    await world.complains("lease-file", /virbr0\.status: .*what was known before stays/);
    await world.becomes("web", "active");
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("that is a directory is reported, and the last good leases stay in force", async () => {
    await rm(file);
    await mkdir(file);
    await world.complains("lease-file", /virbr0\.status: is not a file/);
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("that the daemon may not read is reported, and the last good leases stay in force", async () => {
    await daemon.stop();
    // Root may read everything unless these two are taken away.
    const drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    const command = [
      ...drop,
      process.execPath,
      PROGRAM,
      "run",
      "-c",
      world.config,
      "--dnsmasq-dir",
      world.dnsmasqDir,
    ];
    const limited = world.lab.spawn(command);
    await limited.waitForLine(/config loaded/);
    await world.becomes("web", "active");
    await chown(file, 1000, 1000);
    await chmod(file, 0o600);
    await world.complains("lease-file", /cannot be read \(EACCES\)/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    await world.leases();
    await world.isWell();
    await limited.kill("SIGTERM");
    expect(await limited.exited).toBe(0);
    daemon = await world.start();
  });

  it.each([["missing"], ["empty"]])(
    "that is %s is not reported, and the last good leases stay in force",
    async (how) => {
      if (how === "missing") await rm(file);
      else await put("");
      // The daemon reads the domain list in the same pass, so db's state proves that it has read the lease file.
      await world.writeMacs("virbr0", { web: [WEB.mac] });
      await world.becomes("db", "pending");
      expect(await world.web()).toBe(WEB_ANSWERS);
      await world.writeMacs("virbr0", { web: [WEB.mac], db: [DB.mac] });
    },
  );
});

it("an empty list in the lease file ends all leases", async () => {
  await world.answerAs("virbr0", []);
  await put("[]\n");
  await world.becomes("web", "pending", /no live lease/);
  expect(await world.web()).toBe("denied");
});

describe("a lease folder that cannot be listed when the daemon starts", () => {
  const FOLDER = /dnsmasq: (cannot be read \(EACCES\)|does not exist)/;

  it.each([
    ["not readable", "chmod 0 $1", "chmod 755 $1"],
    ["missing", "mv $1 $1.away", "mv $1.away $1"],
  ])("(%s) is reported, and the rules stay", async (_what, spoil, mend) => {
    const sh = (script: string): Promise<unknown> =>
      world.lab.exec(["sh", "-ec", script, "sh", world.dnsmasqDir]);
    const before = [await world.rules("nat"), await world.rules("filter")].map(withoutCounters);
    await daemon.stop();
    await sh(spoil);
    // Root may read everything unless these two are taken away.
    const drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", process.execPath, PROGRAM];
    const options = ["-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
    const plan = await world.lab.exec([...drop, "plan", ...options], { check: false });
    expect(plan).toMatchObject({ exitCode: 0, stderr: expect.stringMatching(FOLDER) });
    const apply = await world.lab.exec([...drop, "apply", ...options], { check: false });
    expect(apply).toMatchObject({ exitCode: 0, stderr: expect.stringMatching(FOLDER) });
    const limited = world.lab.spawn([...drop, "run", ...options]);
    await world.complains("lease-folder", FOLDER);
    await world.becomes("web", "active", /kept as it was/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect([await world.rules("nat"), await world.rules("filter")].map(withoutCounters)).toEqual(before);
    await sh(mend);
    await world.isWell();
    await writeRows([leaseRow(WEB)]);
    await limited.kill("SIGTERM");
    await limited.exited;
    daemon = await world.start();
  });

  function withoutCounters(rules: string): string {
    return rules.replaceAll(/^#.*\n| \[[0-9:]*\]$/gm, "");
  }
});

describe("lease rows", () => {
  const web = (more: LeaseRow): LeaseRow => leaseRow(WEB, more);

  it.each([
    ["without hostname", web({})],
    ["infinite", web({ "expiry-time": 0 })],
    ["of the year 2106", web({ "expiry-time": 4_294_967_295 })],
    ["with its expiry as text", web({ "expiry-time": `${Math.floor(Date.now() / 1000) + 3600}` })],
    ["with an upper-case MAC", web({ "mac-address": WEB.mac.toUpperCase() })],
    ["with quotes in the hostname", web({ hostname: '"; reboot; "' })],
    [
      "with a newline in the hostname",
      web({ hostname: "x\n1826988263 52:54:00:6c:3c:02 192.168.122.66 forged *" }),
    ],
    ["with an escape sequence in the hostname", web({ hostname: "\u001b[2J\u001b]0;owned\u0007" })],
    ["with 10,000 characters of hostname", web({ hostname: "A".repeat(10_000) })],
  ])("%s make their forward active", async (_what, row) => {
    await writeRows([row]);
    await world.becomes("web", "active");
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it.each([
    ["0.0.0.0", /refused: outside/],
    ["127.0.0.1", /refused: outside/],
    ["192.168.122.1", /refused: it is virbr0's own/],
    ["192.168.122.255", /refused: .*broadcast/],
    ["10.1.2.3", /refused: outside/],
  ])("with address %s are refused", async (address, why) => {
    await writeRows([leaseRow({ mac: WEB.mac, address })]);
    await world.becomes("web", "pending", why);
    expect(await world.web()).toBe("denied");
    expect(await world.rules("nat")).not.toContain(`--to-destination ${address}:22`);
  });

  it("with an expiry in the past count as expired", async () => {
    await writeRows([web({ "expiry-time": 1 })]);
    await world.becomes("web", "pending", /expired/);
  });

  it("of IPv6 do not disturb those of IPv4", async () => {
    await writeRows([web({}), leaseRow6(WEB)]);
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("with invalid UTF-8 hide no other row", async () => {
    const rows = [leaseRow(WEB), leaseRow({ mac: DB.mac, address: "192.168.122.99" }, { hostname: "XX" })];
    const bytes = Buffer.from(JSON.stringify(rows), "latin1");
    bytes.set([0xff, 0xfe], bytes.indexOf("XX"));
    await world.answerAs("virbr0", rows);
    await put(bytes);
    await expect.poll(() => world.rules("nat"), { timeout: 120_000 }).toContain("192.168.122.99");
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("that are malformed are reported and hide no other row", async () => {
    await writeRows([leaseRow(WEB), { nonsense: true }, leaseRow({ mac: "x", address: "y" })]);
    await world.complains("lease-row", /row left out: ip-address is missing/);
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("of a thousand other MACs with a guest's hostname do not change its forward", async () => {
    const flood = Array.from({ length: 1000 }, (_, index) =>
      leaseRow(
        {
          mac: `52:54:01:00:${(index >> 8).toString(16).padStart(2, "0")}:${(index & 255).toString(16).padStart(2, "0")}`,
          address: `10.${index >> 8}.${index & 255}.7`,
        },
        { hostname: "web" },
      ),
    );
    await writeRows([leaseRow(WEB), ...flood]);
    expect(await world.web()).toBe(WEB_ANSWERS);
  });
});
