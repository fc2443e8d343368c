import { truncateSync, writeFileSync } from "node:fs";
import { chmod, chown, mkdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { until } from "../../support/lab.ts";
import type { Daemon, ExecResult } from "../../support/lab.ts";
import { CLIENT } from "../../support/world.ts";

/** A bad config changes no rule: the last good one stays in force, and the status and the log report the error. */
let world: DaemonWorld;
let daemon: Daemon;
const WEB_ANSWERS = `web 22 ${CLIENT}`;

beforeAll(async () => {
  world = await createDaemonWorld();
  daemon = await world.start();
});
beforeEach(async ({ onTestFailed }) => {
  await world.isWell();
  onTestFailed(() => world.printLog());
});
afterEach(async () => {
  await rm(world.config, { recursive: true, force: true });
  await world.configure(GUESTS);
  await chmod(world.config, 0o600);
  await world.reload();
  await world.isWell();
  expect(await world.web()).toBe(WEB_ANSWERS);
});
afterAll(() => world.close());

async function staysInForce(message: RegExp): Promise<void> {
  await world.complains("config-invalid", message);
  await world.complains("config-invalid", /the config read before stays in force/);
  expect(await world.web()).toBe(WEB_ANSWERS);
}

describe("the last good config stays in force, and the error is reported, when the file", () => {
  it.each([
    ["has broken YAML", "guests: [", /line \d+/],
    ["has an unknown key", "lisen: lan0\nguests: {}\n", /unknown key "lisen"; did you mean "listen"/],
    ["has a port of 65536", "guests: {web: {ports: [65536:22]}}\n", /65536/],
    ["publishes a port twice", "guests: {web: {ports: [1122:22]}, db: {ports: [1122:22/both]}}\n", /1122/],
  ])("%s", async (_what, text, message) => {
    await world.configure(text);
    await staysInForce(message);
  });

  it("is deleted", async () => {
    await rm(world.config);
    await staysInForce(/does not exist/);
  });

  it("is replaced by a directory", async () => {
    await rm(world.config);
    await mkdir(world.config);
    await staysInForce(/is a directory/);
  });

  it("is writable by everyone", async () => {
    await chmod(world.config, 0o666);
    await staysInForce(/writable by everyone; run `chmod o-w/);
  });

  it("does not belong to root", async () => {
    await chown(world.config, 1000, 1000);
    await staysInForce(/belongs to user 1000.*run `chown root/);
    await chown(world.config, 0, 0);
  });

  it("is not UTF-8", async () => {
    await writeFile(world.config, Buffer.from([0x67, 0xff, 0xfe]));
    await staysInForce(/not UTF-8/);
  });

  it("is emptied", async () => {
    await truncate(world.config);
    await staysInForce(/empty/);
  });
});

it("an address outside every network is pending with a warning, and the rest of the config is in force", async () => {
  const config = (port: number, address: string): string =>
    `guests:\n  web: {ports: [${port}:22]}\n  printer: {address: ${address}, ports: [9100:9100]}\n`;
  await world.configure(config(1122, "192.168.122.50"));
  await world.becomes("printer", "active");
  await world.configure(config(1123, "192.168.22.50"));
  await world.becomes("printer", "pending", /outside virbr0's/);
  await world.complains(
    "address-unserved",
    /kvmnatd\.yaml: line \d+: 192\.168\.22\.50 cannot be a guest's address: outside virbr0's/,
  );
  await world.becomes("web", "active");
  expect(await world.ask("client", "tcp", "198.51.100.1", 1123)).toBe(WEB_ANSWERS);
  expect(await world.rules("nat")).not.toContain("192.168.122.50");
  expect((await world.lab.kvmnatd(["reload"])).exitCode).toBe(0);
  await daemon.stop();
  const applied = await world.lab.kvmnatd(["apply", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
  // The tests that follow need the daemon even if this one fails.
  daemon = await world.start();
  expect(applied).toMatchObject({ exitCode: 0, stderr: expect.stringMatching(/192\.168\.22\.50/) });
  await world.complains("address-unserved", /192\.168\.22\.50/);
  await world.becomes("printer", "pending", /outside virbr0's/);
  await world.becomes("web", "active");
});

it("a config that an editor saves in two steps is not in force before the second", async () => {
  const text = await readFile(world.config, "utf8");
  // A config counts when it has not changed for 100 ms: slower steps would be saves of their own, and are taken again.
  const { from } = await until("the steps are made within 80 ms", async () => {
    const before = { from: daemon.log().length };
    const began = performance.now();
    truncateSync(world.config);
    // The first half is valid, and does not have db.
    writeFileSync(world.config, text.slice(0, text.indexOf("  db:")));
    writeFileSync(world.config, `${text}  # saved\n`);
    if (performance.now() - began < 80) return before;
    await writeFile(world.config, text);
    await world.settles();
    return undefined;
  });
  await expect
    .poll(
      () =>
        daemon
          .log()
          .slice(from)
          .map(({ msg }) => msg),
      { timeout: 120_000 },
    )
    .toContainEqual(expect.stringContaining("config reloaded: guests 2"));
  await world.settles();
  const lines = daemon.log().slice(from);
  expect(lines.filter(({ level }) => level > 40)).toEqual([]);
  expect(lines.filter(({ event }) => event === "rule")).toEqual([]);
});

it("a valid change of the config is applied at once and logged", async () => {
  const from = daemon.log().length;
  await world.configure("guests:\n  web: {ports: [1122:22, 1123:22]}\n  db: {ports: [1222:22]}\n");
  await expect
    .poll(() => world.ask("client", "tcp", "198.51.100.1", 1123), { timeout: 120_000 })
    .toBe(WEB_ANSWERS);
  // kvmnatd logs the rule after it has read it back from the kernel.
  await expect
    .poll(() => daemon.log().slice(from))
    .toContainEqual(
      expect.objectContaining({
        event: "rule",
        action: "add",
        guest: "web",
        rule: expect.stringContaining("--dport 1123"),
      }),
    );
});

it("a config warning is logged once and is in the status", async () => {
  const from = daemon.log().length;
  const warned = (): unknown[] =>
    daemon
      .log()
      .slice(from)
      .filter(({ event }) => event === "config-warning");
  await world.configure(`${GUESTS}  idle: {}\n`);
  await world.complains("config-warning", /kvmnatd\.yaml: line \d+: guest "idle" publishes no port/);
  await daemon.kill("SIGHUP");
  await world.settles();
  expect(warned()).toEqual([expect.objectContaining({ level: 40 })]);
});

describe("a command", () => {
  it.each(["run", "apply", "plan", "check"])(
    "%s exits 78, prints the place of the error and changes no rule",
    async (command) => {
      const { exitCode, stderr } = await bad(command, "guests:\n  web:\n    ports: [1122-1120:22]\n");
      expect(exitCode).toBe(78);
      expect(stderr).toMatch(/bad\.yaml:3:13: /);
      expect(stderr).toMatch(/\^/);
      expect(await world.web()).toBe(WEB_ANSWERS);
    },
  );

  it("run logs the error as JSON when stderr is not a terminal", async () => {
    const { stdout } = await bad("run", "guests:\n  web:\n    ports: [1122-1120:22]\n");
    const lines = stdout.trim().split("\n");
    expect(lines.map((line) => JSON.parse(line) as unknown)).toContainEqual(
      expect.objectContaining({
        level: 50,
        event: "config-invalid",
        msg: expect.stringMatching(/bad\.yaml:3:13: .*\nkvmnatd ends; rules that are there stay$/s),
      }),
    );
  });

  it.each([
    ["run", 78],
    ["apply", 78],
    ["check", 0],
    ["plan", 2],
  ])("%s exits %i for a config that all users can write", async (command, expected) => {
    const { exitCode, stderr } = await bad(command, "guests:\n  web: {ports: [1122:22]}\n", 0o666);
    expect(exitCode).toBe(expected);
    expect(stderr).toMatch(/writable by everyone/);
  });

  it("check prints the path of a missing config", async () => {
    const { exitCode, stderr } = await world.lab.kvmnatd(["check", "-c", "/nowhere.yaml"]);
    expect(exitCode).toBe(78);
    expect(stderr).toMatch(/\/nowhere\.yaml: does not exist; copy config\.example\.yaml/);
  });

  it.each([
    ["check", 0],
    ["plan", 2],
    ["apply", 0],
  ])(
    "%s warns with the place of an address outside every served network, and exits %i",
    async (command, expected) => {
      const printer = "  printer:\n    address: 10.9.9.9\n    ports: ['9100:9100']\n";
      const { exitCode, stderr } = await besideStopped(() =>
        bad(command, `guests:\n${printer}  web: {ports: [1122:22, 1124:22]}\n`),
      );
      expect(exitCode).toBe(expected);
      expect(stderr).toMatch(/bad\.yaml:.*3.*10\.9\.9\.9 cannot be a guest's address: outside virbr0's/);
    },
  );

  it.each([
    ["ss", /bad\.yaml: warning: ports in use are not checked: ss .*/],
    ["ip", /bad\.yaml: warning: guests' addresses are not checked: ip .*/],
  ])("check without %s reports the missing part and checks everything else", async (program, unchecked) => {
    const bin = `${world.lab.dir}/without-${program}`;
    await mkdir(bin);
    await writeFile(`${bin}/${program}`, "#!/bin/sh\necho 'no luck' >&2; exit 1\n", { mode: 0o755 });
    const printer = "guests:\n  printer: {address: 10.9.9.9, ports: ['9100:9100']}\n";
    const { exitCode, stderr } = await bad("check", printer, 0o600, `${bin}:${process.env["PATH"] ?? ""}`);
    expect(stderr).toMatch(unchecked);
    expect(exitCode).toBe(0);
    expect(stderr.includes("10.9.9.9 cannot be a guest's address")).toBe(program === "ss");
  });

  it("check warns with both places when a port is published on an interface and on its address", async () => {
    const ports =
      "guests:\n  web: {ports: [{published: 80, target: 80, host_ip: lan0}]}\n  db: {ports: ['198.51.100.1:80:80']}\n";
    const { exitCode, stderr } = await bad("check", ports);
    expect(exitCode).toBe(0);
    expect(stderr).toMatch(
      /bad\.yaml:3:\d+: .*198\.51\.100\.1:80\/tcp is published for guest web already \(line 2\)/,
    );
  });

  it("check warns with the process when the host listens on a published port", async () => {
    const server = await world.serve("host", "sshd", ["tcp:1122"]);
    const { exitCode, stderr } = await bad("check", "guests:\n  web: {ports: [1122:22]}\n");
    expect(exitCode).toBe(0);
    expect(stderr).toMatch(/port 1122\/tcp of this host is in use by .+ \(pid \d+\)/);
    await server.kill("SIGKILL");
  });

  /** The daemon has another config: it would repair what `apply` writes before `apply` reads it back. */
  async function besideStopped(run: () => Promise<ExecResult>): Promise<ExecResult> {
    await daemon.kill("SIGSTOP");
    try {
      return await run();
    } finally {
      await daemon.kill("SIGCONT");
    }
  }

  async function bad(
    command: string,
    text: string,
    mode = 0o600,
    path = process.env["PATH"] ?? "",
  ): Promise<ExecResult> {
    const file = `${world.lab.dir}/bad.yaml`;
    await writeFile(file, text);
    await chmod(file, mode);
    const options = ["-c", file, "--dnsmasq-dir", world.dnsmasqDir];
    return world.lab.kvmnatd([command, ...options], {
      RUNTIME_DIRECTORY: `${world.lab.dir}/other`,
      PATH: path,
    });
  }
});
