import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { until } from "../support/lab.ts";
import type { LogLine } from "../support/lab.ts";
import { createGuest, createStage, NOTHING } from "../support/libvirt.ts";
import type { LabGuest, Libvirt, Stage } from "../support/libvirt.ts";

const LINGER_MS = 1000;
const CONFIG = `
linger: ${LINGER_MS / 1000}s
guests:
  devstack:
    ports: [1122:22, 1180:80]
`;
const FORWARDS = [
  { port: 1122, target: 22 },
  { port: 1180, target: 80 },
];

/** One guest's life, from before libvirt is there to a lease that runs out. */
describe("a forward follows its guest", () => {
  let stage: Stage;
  let libvirt: Libvirt;
  let guest: LabGuest;
  /** The guest's address of the moment. */
  let address: string;

  beforeAll(async () => {
    stage = await createStage(CONFIG);
    libvirt = stage.libvirt;
  });
  afterAll(() => stage.close());
  beforeEach(({ onTestFailed }) => onTestFailed(() => stage.dump()));

  async function reaches(where: string): Promise<void> {
    for (const { port } of FORWARDS)
      await until(
        `${port} leads to ${where}`,
        async () => (await libvirt.dial(port)) === `devstack at ${where} sees 10.99.0.2`,
      );
  }

  async function isPending(reason: RegExp): Promise<void> {
    await until(`both forwards are pending: ${reason}`, async () => {
      const { forwards } = await stage.status();
      return (
        forwards.length === 2 &&
        forwards.every(({ state, why }) => state === "pending" && reason.test(why ?? ""))
      );
    });
    for (const { port } of FORWARDS) expect(await libvirt.dial(port)).toBe(NOTHING);
  }

  /**
   * The first rule that went since this line of the log. Its time is the daemon's own: by the time that a busy
   * machine has answered a question about it, much more may have passed.
   */
  async function removalSince(line: number): Promise<LogLine> {
    return until("a rule was removed", () =>
      stage
        .log()
        .slice(line)
        .find(({ action }) => action === "remove"),
    );
  }

  it("waits for libvirt and logs that once", async () => {
    await stage.startDaemon();
    const waiting = (): number => stage.log().filter(({ event }) => event === "waiting").length;
    await until("it says that it waits", () => waiting() > 0);
    await libvirt.start();
    await isPending(/./);
    // A running libvirtd is no network yet: however often the daemon looks again, that is no news.
    for (let look = 0; look < 3; look++) await stage.reload();
    expect(waiting()).toBe(1);
    expect(stage.log().filter(({ level }) => level >= 50)).toEqual([]);
  });

  it("publishes the ports once the network, the domain and its lease are there", async () => {
    await libvirt.startNetwork();
    guest = await createGuest(libvirt, "devstack", "52:54:00:6c:3c:01");
    for (const { target } of FORWARDS) await guest.serve(target);
    await guest.powerOn();
    address = await guest.takeLease();
    await reaches(address);
    await stage.becomes("active");
    const { forwards } = await stage.status();
    expect(forwards).toMatchObject(
      FORWARDS.map(({ port, target }) => ({
        guest: "devstack",
        protocol: "tcp",
        published: `${port}`,
        target: `${target}`,
        address,
        mac: guest.mac,
      })),
    );
  });

  it("moves with the guest's lease and logs the reason and the rules", async () => {
    const before = stage.log().length;
    const old = address;
    await guest.releaseLease();
    address = await guest.takeLease("192.168.122.77");
    expect(address).toBe("192.168.122.77");
    await reaches(address);
    const isRule = ({ event }: LogLine): boolean => event === "rule";
    await until("the log has the move", () => stage.log().slice(before).filter(isRule).length >= 4);
    await stage.becomes("active");

    const news = stage.log().slice(before);
    const tellsMove = ({ msg }: LogLine): boolean => msg.includes(old) && msg.includes(address);
    expect(news.filter(tellsMove)).toHaveLength(1);
    const moved = news.findIndex(tellsMove);
    expect(news[moved]).toMatchObject({ guest: "devstack", event: "forward-moved" });
    expect(news[moved]?.msg).toContain("devstack");
    const rules = news.filter(isRule);
    // The why-line comes first and nothing comes between.
    expect(news.slice(moved + 1, moved + 1 + rules.length)).toEqual(rules);
    const rule = (verb: string, port: number, to: string): unknown =>
      expect.stringMatching(
        new RegExp(
          `^iptables -t nat ${verb} KVMNATD-DNAT .*--dport ${port} .*-j DNAT --to-destination ${to}$`,
        ),
      );
    const wanted = FORWARDS.flatMap(({ port, target }) => [
      { action: "remove", rule: rule("-D", port, `${old}:${target}`) },
      { action: "add", rule: rule("-[AI]", port, `${address}:${target}`) },
    ]);
    expect(rules).toHaveLength(wanted.length);
    for (const each of wanted) expect(rules).toContainEqual(expect.objectContaining(each));
    for (const { msg, action, reason, pass } of rules) {
      expect(msg.startsWith(action === "add" ? "+ " : "- ")).toBe(true);
      expect(reason).toBe(news[moved]?.reason);
      expect(pass).toBe(news[moved]?.pass);
    }
    expect((await libvirt.lab.exec(["iptables-save"])).stdout).not.toContain(`${old}:`);
  });

  it("is pending when the guest has released its lease and linger is over", async () => {
    const before = stage.log().length;
    const releasedAt = Date.now();
    await guest.releaseLease();
    await until("dnsmasq has taken the lease back", async () => (await libvirt.leases()).length === 0);
    await isPending(/no live lease/);
    expect((await removalSince(before)).time).toBeGreaterThanOrEqual(releasedAt + LINGER_MS);
    address = await guest.takeLease();
    await reaches(address);
    await stage.becomes("active");
  });

  it("is pending while the guest is off and its lease lives on, and active when the guest runs again", async () => {
    const before = stage.log().length;
    const offAt = Date.now();
    await guest.powerOff();
    await isPending(/guest is off/);
    expect((await removalSince(before)).time).toBeGreaterThanOrEqual(offAt + LINGER_MS);
    expect(await libvirt.leases()).toMatchObject([{ "ip-address": address }]);
    await guest.powerOn();
    await reaches(address);
    await stage.becomes("active");
  });

  it("is pending when the lease has expired and linger is over", async () => {
    // dnsmasq gives no lease under two minutes: a real one, of which only the expiry is moved. It is a frozen
    // or dead dnsmasq that leaves such a row behind.
    const [lease] = await libvirt.leases();
    if (lease === undefined) throw new Error("the guest has no lease");
    const expiry = Math.ceil(Date.now() / 1000) + 1;
    const before = stage.log().length;
    await libvirt.writeLeases([{ ...lease, "expiry-time": expiry }]);
    await isPending(/expired/);
    const endsAt = expiry * 1000 + LINGER_MS;
    const { time, reason } = await removalSince(before);
    expect(time).toBeGreaterThanOrEqual(endsAt);
    // By the time itself, not by a later event.
    expect(reason).toMatch(/^(timer|virbr0\.status)$/);
  });
});
