import { rename, writeFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { request, scrape, scrapeText, talk } from "../../support/scrape.ts";
import { CLIENT, DB, HOST, leaseRow, WEB } from "../../support/world.ts";

const SOON = { timeout: 120_000 };
const OURS = "TCP:127.0.0.1:9101";
let world: DaemonWorld;
beforeEach(async () => {
  world = await createDaemonWorld();
});
afterEach(() => world.close());

/** Starts the daemon with this config, and waits until the forward of web is active. */
async function start(metrics: string, guests = GUESTS): Promise<void> {
  await world.configure(`metrics: ${metrics}\n${guests}`);
  await world.start();
  await world.becomes("web", "active");
}

async function isServed(): Promise<void> {
  await expect.poll(() => from(undefined, OURS), SOON).toBe("HTTP/1.1 200 OK");
}

const value = async (series: string): Promise<number | undefined> => (await scrape(world.lab)).get(series);
const from = async (netns: string | undefined, where: string): Promise<string> =>
  (await request(world.lab, where, "GET /metrics", netns)).split("\r\n")[0] ?? "";

describe("the metrics page", () => {
  it("shows the kernel's counters in a form that promtool accepts", async () => {
    await start(
      ":9101",
      "guests:\n  web: {ports: [1122:22]}\n  'q\"u\\o': {mac: '52:54:00:00:00:09', ports: [9:9]}\n  db: {ports: ['198.51.100.1:1222:22', '198.51.100.9:1222:22']}\n",
    );
    for (let index = 0; index < 3; index += 1) expect(await world.web()).toBe(`web 22 ${CLIENT}`);
    expect(await world.ask("client", "tcp", "198.51.100.9", 1222)).toBe(`db 22 ${CLIENT}`);
    const packets = (guest: string, port: string, listen: string): string =>
      `kvmnatd_forward_packets_total{guest="${guest}",protocol="tcp",published="${port}",listen="${listen}",target="22"}`;
    await expect.poll(() => value(packets("web", "1122", "0.0.0.0")), SOON).toBe(3);
    const series = await scrape(world.lab);
    expect(series.get(packets("db", "1222", "198.51.100.9"))).toBe(1);
    expect(series.get(packets("db", "1222", "198.51.100.1"))).toBe(0);
    expect(series.get(packets("web", "1122", "0.0.0.0").replace("packets", "bytes"))).toBeGreaterThan(100);
    expect(series.get('kvmnatd_forwards{state="active"}')).toBe(3);
    expect(series.get('kvmnatd_forwards{state="pending"}')).toBe(1);
    expect(series.get('kvmnatd_passes_total{trigger="start",outcome="changed"}')).toBe(1);
    expect(series.get("kvmnatd_pass_duration_seconds_count")).toBeGreaterThan(0);
    const checked = await world.lab.exec(["promtool", "check", "metrics"], {
      input: await scrapeText(world.lab),
      check: false,
    });
    expect(checked).toEqual({ exitCode: 0, stdout: "", stderr: "" });
  });

  it("counts moved leases, repaired drift and errors apart", async () => {
    await start("9101");
    await isServed();
    const before = await scrape(world.lab);
    const grown = async (name: string): Promise<number> =>
      ((await value(name)) ?? 0) - (before.get(name) ?? 0);
    await world.writeLeases("virbr0", [leaseRow({ mac: WEB.mac, address: DB.address })]);
    await expect.poll(() => grown("kvmnatd_rules_added_total"), SOON).toBeGreaterThan(0);
    // The guest's link changes with its lease: the first of the two events triggers the pass.
    const asked = [...(await scrape(world.lab)).keys()].filter((name) =>
      name.startsWith("kvmnatd_passes_total"),
    );
    expect(asked.join()).toMatch(/trigger="(leases|links)",outcome="changed"/);
    expect(await grown("kvmnatd_drift_healed_total")).toBe(0);
    await world.leases();
    await world.isWell();
    await world.idles();
    expect(await grown("kvmnatd_drift_healed_total")).toBe(0);
    await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "KVMNATD-DNAT"]);
    await expect.poll(() => grown("kvmnatd_drift_healed_total"), SOON).toBe(2);
    expect(await grown('kvmnatd_passes_total{trigger="rules",outcome="changed"}')).toBeGreaterThan(0);

    await world.configure("metrics: 9101\nguests: 5\n");
    await expect.poll(() => value("kvmnatd_config_last_reload_successful"), SOON).toBe(0);
    await world.lab.kvmnatd(["reload"]);
    await expect.poll(() => value("kvmnatd_config_errors_total"), SOON).toBe(1);
    expect(await value('kvmnatd_problems{code="config-invalid",severity="error"}')).toBe(1);
    await world.configure(`metrics: 9101\n${GUESTS}`);
    await expect.poll(() => value("kvmnatd_config_last_reload_successful"), SOON).toBe(1);
    expect(await value('kvmnatd_problems{code="config-invalid",severity="error"}')).toBeUndefined();

    expect(await value("kvmnatd_lease_errors_total")).toBe(0);
    await writeFile(`${world.dnsmasqDir}/broken`, "[{]");
    await rename(`${world.dnsmasqDir}/broken`, `${world.dnsmasqDir}/virbr0.status`);
    await expect.poll(() => value("kvmnatd_lease_errors_total"), SOON).toBe(1);
  });

  it("drops the series of a removed forward", async () => {
    await start(":9101");
    const series = async (): Promise<string> => scrapeText(world.lab);
    await expect.poll(series, SOON).toContain('guest="db"');
    await world.configure("metrics: :9101\nguests:\n  web: {ports: [1122:22]}\n");
    await expect.poll(series, SOON).not.toContain('guest="db"');
    expect(await series()).toContain('guest="web"');
  });
});

describe("the metrics address", () => {
  it("is loopback by default, and follows a change of the config", async () => {
    await start("9101");
    await isServed();
    const opened = world.log().filter(({ event }) => event === "metrics-listening");
    expect(opened).toMatchObject([{ msg: "metrics are served at http://127.0.0.1:9101/metrics" }]);
    expect(world.log().filter(({ event }) => event === "metrics-unavailable")).toEqual([]);
    expect(await from("client", `TCP:${HOST}:9101`)).toBe("");
    // A saved change is enough.
    await world.configure(`metrics: ${HOST}:9102\n${GUESTS}`);
    await expect.poll(() => from("client", `TCP:${HOST}:9102`), SOON).toBe("HTTP/1.1 200 OK");
    expect(await from(undefined, OURS)).toBe("");
    await world.configure(`metrics: "[::1]:9101"\n${GUESTS}`);
    await expect.poll(() => from(undefined, "TCP6:[::1]:9101"), SOON).toBe("HTTP/1.1 200 OK");
    expect(await from("client", `TCP:${HOST}:9102`)).toBe("");
    await world.configure(GUESTS);
    await expect.poll(() => from(undefined, "TCP6:[::1]:9101"), SOON).toBe("");
    await world.reload();
    await world.isWell();
  });

  it("is reported when it is in use or not on this host, and forwards work", async () => {
    const other = world.lab.spawn(["socat", "TCP-LISTEN:9101,fork,reuseaddr", "EXEC:true"]);
    await expect.poll(async () => (await world.lab.exec(["ss", "-Hltn"])).stdout, SOON).toContain(":9101");
    await start("9101");
    await world.complains(
      "metrics-unavailable",
      /127\.0\.0\.1:9101: another program listens there .*set another port/,
    );
    expect(await world.web()).toBe(`web 22 ${CLIENT}`);
    await other.kill("SIGKILL");
    await isServed();
    await expect
      .poll(
        () =>
          world
            .log()
            .map(({ msg }) => msg)
            .join("\n"),
        SOON,
      )
      .toMatch(/over: metrics cannot be/);
    await world.configure(`metrics: 198.51.100.77:9101\n${GUESTS}`);
    await world.complains("metrics-unavailable", /198\.51\.100\.77:9101: the address is not on this host/);
    await world.lab.exec(["ip", "address", "add", "198.51.100.77/24", "dev", "lan0"]);
    await expect.poll(() => from("client", "TCP:198.51.100.77:9101"), SOON).toBe("HTTP/1.1 200 OK");
    expect((await world.lab.kvmnatd(["status"])).exitCode).toBe(0);
  });
});

describe("a metrics client", () => {
  it("gets /metrics by GET, and an error for other paths and methods", async () => {
    await start("9101");
    const head = async (line: string): Promise<string> =>
      (await request(world.lab, OURS, line)).split("\r\n\r\n")[0] ?? "";
    await expect
      .poll(() => head("GET /metrics"), SOON)
      .toMatch(/^HTTP\/1\.1 200 [^]*text\/plain; version=0\.0\.4/);
    expect(await head("GET /metrics?collect=all")).toMatch(/^HTTP\/1\.1 200 /);
    expect(await head("GET /")).toMatch(/^HTTP\/1\.1 404 /);
    expect(await head("GET /metrics/")).toMatch(/^HTTP\/1\.1 404 /);
    expect(await head("POST /metrics")).toMatch(/^HTTP\/1\.1 405 [^]*Allow: GET/);
  });

  it("that opens 5,000 connections of garbage neither stops passes nor exhausts file descriptors", async () => {
    await start("9101");
    await isServed();
    const flood = world.lab.spawn([process.execPath, "-e", FLOOD]);
    await flood.waitForLine(/^begun/);
    await world.writeLeases("virbr0", [leaseRow({ mac: WEB.mac, address: DB.address })]);
    await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
    expect(await flood.exited).toBe(0);
    // kvmnatd closes the open connections after their timeout, and answers requests again.
    await isServed();
    const { pid } = await world.status();
    const { stdout } = await world.lab.exec(["ls", `/proc/${pid}/fd`]);
    expect(stdout.split("\n").length).toBeLessThan(100);
  }, 90_000);

  it("is disconnected when it sends nothing, and rejected when its request is too long", async () => {
    await start("9101");
    await isServed();
    const began = Date.now();
    const silent = world.lab.spawn(["socat", "-u", OURS, "STDOUT"]);
    await silent.exited;
    // kvmnatd ends it after 10 s, Node itself after 60 s.
    expect(Date.now() - began).toBeLessThan(50_000);
    expect(await talk(world.lab, undefined, OURS, `GET /${"x".repeat(20_000)} HTTP/1.1\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 431 /,
    );
  });
});

/** 5,000 connections, 200 at a time: garbage, half a request, no data. */
const FLOOD = `
const net = require("node:net");
const texts = ["\\x00\\xff".repeat(2000), "GET /metrics HTTP/1.1\\r\\nX: ", "", "GET /metrics HTTP/1.1\\r\\n\\r\\n"];
let started = 0, open = 0;
function next() {
  while (open < 200 && started < 5000) {
    const socket = net.connect(9101, "127.0.0.1");
    open += 1;
    socket.on("error", () => undefined);
    socket.on("close", () => { open -= 1; next(); });
    socket.write(texts[started++ % texts.length]);
    setTimeout(() => socket.destroy(), 1000).unref();
    if (started === 200) console.log("begun");
  }
}
next();
`;
