import { resolve } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createGuest, createStage } from "../support/libvirt.ts";
import type { LabGuest, Libvirt, Stage } from "../support/libvirt.ts";
import { until } from "../support/lab.ts";

const DHCP = resolve(import.meta.dirname, "../support/dhcp.py");
const WEB_MAC = "52:54:00:6c:3c:01";
const DB_MAC = "52:54:00:6c:3c:02";
const CONFIG = `
linger: 500ms
guests:
  web: {ports: [1122:22]}
  site: {hostname: site, ports: [1222:22]}
  db: {mac: "${DB_MAC}", ports: [1322:22]}
`;
/** libvirt's helper is run for one lease after the other, and takes half a second each on a busy machine. */
const TWO_HUNDRED_LEASES_MS = 150_000;
const hex = (text: string): string => Buffer.from(text, "latin1").toString("hex");

/** A guest that says what it likes to a real dnsmasq, and answers at whatever address it gets. */
describe.each(["iptables", "nftables"] as const)("a hostile guest, libvirt with %s", (backend) => {
  let stage: Stage;
  let libvirt: Libvirt;
  let web: LabGuest;
  let db: LabGuest;
  let evil: LabGuest;
  /** What a client is greeted with at each published port. */
  let right: readonly string[];

  beforeAll(async () => {
    stage = await createStage(CONFIG, backend === "nftables" ? { backend } : {});
    ({ libvirt } = stage);
    await libvirt.start();
    await libvirt.startNetwork();
    web = await createGuest(libvirt, "web", WEB_MAC);
    db = await createGuest(libvirt, "db", DB_MAC);
    evil = await createGuest(libvirt, "evil", "52:54:00:6c:3c:66");
    for (const guest of [web, db, evil]) {
      await guest.serve(22);
      await guest.powerOn();
    }
    await web.takeLease();
    await renew();
    await db.takeLease();
    await evil.takeLease();
    await stage.startDaemon();
    await stage.becomes("active");
    right = await greetings();
    expect(right.map((greeting) => greeting.split(" ")[0])).toEqual(["web", "web", "db"]);
  });
  afterAll(() => stage.close());
  beforeEach(({ onTestFailed }) => onTestFailed(() => stage.dump()));

  const greetings = (): Promise<readonly string[]> =>
    Promise.all([1122, 1222, 1322].map((port) => libvirt.dial(port)));

  /** @returns the addresses it got */
  async function say(guest: LabGuest, ...words: readonly string[]): Promise<readonly string[]> {
    const { stdout } = await libvirt.lab.exec(
      ["ip", "netns", "exec", guest.name, "/usr/bin/python3", DHCP, ...words],
      { timeoutMs: 180_000 },
    );
    return stdout.trim().split("\n");
  }

  /** web's own client asks again, and tells its name. */
  async function renew(): Promise<void> {
    await say(web, "lease", `host=${hex("site")}`, `id=01${WEB_MAC.replaceAll(":", "")}`);
  }

  async function answerAt(address: string): Promise<void> {
    await libvirt.lab.exec(["ip", "-n", evil.name, "address", "add", `${address}/24`, "dev", "eth0"]);
  }

  /** Who answers, once all is quiet; what has moved; and what of its words got through unescaped. */
  async function look(): Promise<object> {
    await stage.rests();
    const { stdout } = await stage.kvmnatd("status");
    const lines = [...stage.log().map(({ msg }) => msg), ...stdout.split("\n")];
    return {
      greetings: await greetings(),
      moved: stage.log().filter(({ event }) => event === "forward-moved"),
      unescaped: lines.filter((line) => /\p{Cc}/u.test(line)),
    };
  }

  const asBefore = (): object => ({ greetings: right, moved: [], unescaped: [] });

  const rows = (): Promise<string> =>
    libvirt.lab.exec(["cat", "/var/lib/libvirt/dnsmasq/virbr0.status"]).then(({ stdout }) => stdout);

  it("takes the hostname of another guest", async () => {
    await say(evil, "lease", `host=${hex("site")}`);
    expect(await look()).toEqual(asBefore());
  });

  it("takes a lease with another guest's MAC and answers at its address", async () => {
    const [address = ""] = await say(evil, "lease", `mac=${WEB_MAC}`, `id=${hex("evil")}`);
    await answerAt(address);
    expect(await look()).toEqual(asBefore());
    const { forwards } = await stage.status();
    expect(forwards[0]?.why).toContain(`newer lease of ${address} passed over`);
  });

  it("releases another guest's lease and takes one in its name", async () => {
    const address = /at (\S+)/.exec(right[0] ?? "")?.[1] ?? "";
    await say(evil, "release", `ip=${address}`, `mac=${WEB_MAC}`, `id=01${WEB_MAC.replaceAll(":", "")}`);
    await until("the row has gone", async () => !(await rows()).includes(`"${address}"`));
    expect(await look()).toEqual(asBefore());
    await renew();
    expect(await look()).toEqual(asBefore());
  });

  it("sends hostnames with quotes, newlines, escapes, 255 bytes", async () => {
    for (const name of [
      '"; $(reboot) `x` \\',
      "x\ny",
      "\u001b[2J\u0007\u009b31m",
      `\u001b${"A".repeat(254)}`,
    ])
      await say(evil, "lease", `host=${hex(name)}`);
    expect(await look()).toEqual(asBefore());
  });

  it("declines an address", async () => {
    await say(evil, "decline", `mac=${WEB_MAC}`, `id=${hex("decline")}`);
    expect(await look()).toEqual(asBefore());
  });

  it("makes the lease file invalid UTF-8 by its hostname", async () => {
    await say(evil, "lease", "host=fffe41");
    await say(evil, "lease", `host=${hex("again")}`);
    expect(await look()).toEqual(asBefore());
  });

  it("takes two hundred leases with invented MACs", async () => {
    await say(evil, "lease", "mac=52:54:00:99:00:00", "count=200");
    const last = "52:54:00:99:00:c7";
    await until("the last one is written", async () => (await rows()).includes(last), TWO_HUNDRED_LEASES_MS);
    expect(await look()).toEqual(asBefore());
  });

  it("sends 500 requests a second, and a change of another guest is followed meanwhile", async () => {
    const flood = say(evil, "flood", "seconds=4", "rate=500");
    await libvirt.lab.exec(["iptables", "-t", "nat", "-F", "PREROUTING"]);
    await expect.poll(greetings, { timeout: 120_000 }).toEqual(right);
    await flood;
    expect(await look()).toEqual(asBefore());
  });

  it("forges rows by a newline in its hostname, before the network is started again", async () => {
    const later = Math.floor(Date.now() / 1000) + 86_400 * 365;
    const address = "192.168.122.66";
    await answerAt(address);
    // Their rows were lost with the invalid file, and a network that is down ends the patience with that.
    await renew();
    await db.takeLease();
    await until("their rows are back", async () => {
      const list = await rows();
      return [WEB_MAC, DB_MAC].every((mac) => list.includes(mac));
    });
    await say(evil, "lease", `host=${hex(`x *\n${later} ${WEB_MAC} ${address} site *`)}`);
    await libvirt.stopNetwork();
    await libvirt.startNetwork();
    for (const name of ["web", "db", "evil"])
      await libvirt.lab.exec(["ip", "link", "set", `${name}-tap`, "master", "virbr0"]);
    await expect.poll(greetings, { timeout: TWO_HUNDRED_LEASES_MS }).toEqual(right);
    expect(await look()).toEqual(asBefore());
  });
});
