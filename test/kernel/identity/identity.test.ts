import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import type { Daemon } from "../../support/lab.ts";
import { CLIENT, DB, FAR, leaseRow, leaseRow6, HOST_V6, WEB } from "../../support/world.ts";
import type { LeaseRow } from "../../support/world.ts";

/** db is hostile: it sends forged DHCP requests, but its NIC answers with its own MAC. */
const WEB_ANSWERS = `web 22 ${CLIENT}`;
const SOON = { timeout: 120_000 };
const LATER = 7200;
let world: DaemonWorld;
let daemon: Daemon;

beforeEach(async () => {
  world = await createDaemonWorld("nft", "linger: 300ms\n");
  daemon = await world.start();
  await world.isWell();
  await world.settles();
});
afterEach(() => world.close());

/** A lease with web's MAC that db requested, newer than web's own. */
const forged = (address = DB.address, mac = WEB.mac): LeaseRow =>
  leaseRow({ mac, address }, { "expiry-time": Math.floor(Date.now() / 1000) + LATER });
const forge = (...rows: readonly LeaseRow[]): Promise<void> => world.forgeLeases("virbr0", rows);
const why = async (guest = "web"): Promise<string | null | undefined> =>
  (await world.status()).forwards.find((forward) => forward.guest === guest)?.why;
/** The logged moves of web's forward. */
const moves = (): readonly string[] =>
  world.log().flatMap(({ event, msg }) => (event === "forward-moved" ? [msg] : []));

describe("the forward stays when another guest has a lease with its MAC", () => {
  it("beside its own lease", async () => {
    await forge(leaseRow(WEB), forged());
    await world.becomes("web", "active", /newer lease of 192\.168\.122\.12 passed over/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
  });

  it("on another network on which it has another NIC, after its own lease was released", async () => {
    await world.serve("far", "far", ["tcp:22"]);
    await world.writeMacs("virbr1", { web: ["52:54:00:6c:3c:77"], far: [FAR.mac] });
    await world.lab.exec(["ip", "-n", "far", "link", "set", "eth0", "address", WEB.mac]);
    await world.forgeLeases("virbr1", [forged(FAR.address)]);
    await forge();
    await world.becomes("web", "active", /its lease vanished, but .* still answers there/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
  });

  it("though a guest on another network answers for this address", async () => {
    // The entry that one ARP request from a guest on virbr1 creates.
    const vouched = "192.168.122.77";
    await world.lab.exec([
      "ip",
      "neigh",
      "replace",
      vouched,
      "dev",
      "virbr1",
      "lladdr",
      WEB.mac,
      "nud",
      "reachable",
    ]);
    await forge(leaseRow(WEB), forged(vouched));
    await world.becomes("web", "active", /newer lease of 192\.168\.122\.77 passed over/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
  });

  it("with a forged row for its own address", async () => {
    await forge(leaseRow(WEB), forged(WEB.address, DB.mac), leaseRow(DB));
    await world.becomes(
      "web",
      "active",
      /conflict: 192\.168\.122\.11 is leased to .*:01 and to .*:02, and .*:01 answers there/,
    );
    await forge(forged(WEB.address, DB.mac), leaseRow(DB), leaseRow(WEB));
    await world.settles();
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
    expect((await world.status()).forwards.map(({ address }) => address)).toEqual([WEB.address, DB.address]);
  });

  it("after its own lease was released", async () => {
    await forge(leaseRow(WEB), forged());
    await world.becomes("web", "active", /passed over/);
    await forge(forged());
    await world.becomes(
      "web",
      "active",
      /its lease vanished, but .* still answers there, and not at 192\.168\.122\.12/,
    );
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
  });

  it("in place of its own lease", async () => {
    await forge(forged());
    await world.becomes("web", "active", /its lease vanished, but/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
  });

  it("two hundred times", async () => {
    const many = Array.from({ length: 200 }, (_, index) => forged(`192.168.122.${index + 20}`));
    await forge(leaseRow(WEB), ...many);
    await world.becomes("web", "active", /passed over/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
  });

  it("on IPv6", async () => {
    await world.configure(`listen: ["${HOST_V6}"]\nguests:\n  web: {ports: [1122:22]}\n`);
    await world.writeLeases("virbr0", [leaseRow6(WEB)]);
    await world.reload();
    await world.isWell();
    await forge(leaseRow6(WEB), {
      ...leaseRow6({ mac: WEB.mac, v6: DB.v6 }),
      "expiry-time": Math.floor(Date.now() / 1000) + LATER,
    });
    await world.becomes("web", "active", /newer lease of fd00:122::12 passed over/);
    expect(await world.ask("client", "tcp", HOST_V6, 1122)).toBe("web 22 fd01::2");
    expect(moves()).toEqual([]);
  });

  it("requested while no daemon ran", async () => {
    await daemon.stop();
    await forge(leaseRow(WEB), forged());
    daemon = await world.start();
    await world.becomes("web", "active", /newer lease of 192\.168\.122\.12 passed over/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
  });
});

describe("a lease with the MAC of a guest that has none", () => {
  const TAKEN = "192.168.122.99";
  const takes = (address = `${TAKEN}/24`): Promise<unknown> =>
    world.lab.exec(["ip", "-n", "db", "address", "add", address, "dev", "eth0", "nodad"]);
  const REFUSED = /is leased to .*:01, but .*:02 answers there/;

  it("gets no forward when the guest starts, and does not delay it", async () => {
    await world.writeMacs("virbr0", { db: [DB.mac] });
    await world.becomes("web", "pending", /guest is off/);
    await takes();
    await forge(leaseRow(DB), forged(TAKEN));
    await world.writeMacs("virbr0", { web: [WEB.mac], db: [DB.mac] });
    await world.becomes("web", "pending", REFUSED);
    expect(await world.rules("nat")).not.toContain(TAKEN);
    expect(await world.web()).toBe("denied");
    await forge(leaseRow(DB), forged(TAKEN), leaseRow(WEB));
    await world.becomes("web", "active", /newer lease of 192\.168\.122\.99 passed over/);
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("gets no forward while the guest is silent", async () => {
    await daemon.stop();
    await world.run("teardown", GUESTS);
    await takes();
    await world.lab.exec(["ip", "-n", "web", "link", "set", "eth0", "down"]);
    await forge(leaseRow(WEB), forged(TAKEN));
    await world.start();
    await world.becomes("web", "active", /192\.168\.122\.99 passed over: .*:02 answers there/);
    expect((await world.status()).forwards[0]?.address).toBe(WEB.address);
  });

  it("loses the forward once another MAC answers after a silence", async () => {
    await world.configure("guests:\n  other: {mac: 52:54:00:6c:3c:77, ports: [1122:22]}\n");
    await forge(leaseRow(DB), forged(TAKEN, "52:54:00:6c:3c:77"));
    await world.becomes("other", "active", /^$/);
    await takes();
    await world.becomes("other", "pending", /but .*:02 answers there/);
    expect(await world.rules("nat")).not.toContain(TAKEN);
  });

  it("on IPv6", async () => {
    await takes("fd00:122::99/64");
    await world.configure(`listen: ["${HOST_V6}"]\nguests:\n  web: {ports: [1122:22]}\n`);
    await forge(leaseRow6({ mac: WEB.mac, v6: "fd00:122::99" }));
    await world.becomes("web", "pending", REFUSED);
    await forge(leaseRow6({ mac: WEB.mac, v6: "fd00:122::99" }), leaseRow6(WEB));
    await world.isWell();
    expect(await world.ask("client", "tcp", HOST_V6, 1122)).toBe("web 22 fd01::2");
  });
});

describe("permanent neighbour entries", () => {
  const neighbour = (...words: readonly string[]): Promise<unknown> =>
    world.lab.exec(["ip", "neigh", "replace", ...words]);
  const fixed = async (): Promise<string> => {
    // Without a selection, entries without ARP are not shown.
    const { stdout } = await world.lab.exec(["ip", "neigh", "show", "nud", "permanent", "nud", "noarp"]);
    return stdout
      .split("\n")
      .filter((line) => /192\.168\.122\.|fd00:122::/.test(line))
      .toSorted()
      .join("\n");
  };

  it("stay unchanged and count as answers", async () => {
    await neighbour(DB.address, "lladdr", DB.mac, "dev", "virbr0", "nud", "permanent");
    await neighbour("192.168.122.66", "lladdr", DB.mac, "dev", "virbr0", "nud", "noarp");
    await neighbour("192.168.122.77", "lladdr", WEB.mac, "dev", "virbr0", "nud", "permanent");
    const before = await fixed();
    expect(before.split("\n")).toHaveLength(3);
    await world.lab.exec(["ip", "-n", "web", "link", "set", "eth0", "down"]);
    await forge(leaseRow(WEB), forged("192.168.122.77"), forged("192.168.122.66"), forged());
    await expect.poll(async () => (await world.status()).forwards[0]?.address, SOON).toBe("192.168.122.77");
    await world.run("plan", "guests:\n  other: {mac: 52:54:00:6c:3c:01, ports: [1122:22]}\n");
    expect(await fixed()).toBe(before);
  });

  it("stay unchanged and count as answers on IPv6", async () => {
    await world.configure(`listen: ["${HOST_V6}"]\nguests:\n  web: {ports: [1122:22]}\n`);
    await world.writeLeases("virbr0", [leaseRow6(WEB)]);
    await world.reload();
    await world.isWell();
    await neighbour(DB.v6, "lladdr", DB.mac, "dev", "virbr0", "nud", "permanent");
    await neighbour("fd00:122::66", "lladdr", DB.mac, "dev", "virbr0", "nud", "noarp");
    await neighbour("fd00:122::77", "lladdr", WEB.mac, "dev", "virbr0", "nud", "permanent");
    const before = await fixed();
    expect(before.split("\n")).toHaveLength(3);
    await forge(...["fd00:122::77", "fd00:122::66", DB.v6].map((v6) => leaseRow6({ mac: WEB.mac, v6 })));
    await expect.poll(async () => (await world.status()).forwards[0]?.address, SOON).toBe("fd00:122::77");
    expect(await fixed()).toBe(before);
  });
});

describe("a lease that vanished", () => {
  it("keeps its forward only while the guest answers", async () => {
    await forge(leaseRow(DB));
    await world.becomes("web", "active", /its lease vanished, but .* still answers there: kept/);
    await world.settles();
    expect(await world.web()).toBe(WEB_ANSWERS);
    await world.lab.exec(["ip", "-n", "web", "link", "set", "eth0", "down"]);
    await world.becomes("web", "pending", /no live lease/);
  });

  it("keeps its forward when the file is not valid UTF-8 and has lost its other rows", async () => {
    const file = join(world.dnsmasqDir, "virbr0.status");
    const bytes = Buffer.from(JSON.stringify([leaseRow(DB, { hostname: "XX" })]), "latin1");
    bytes.set([0xff, 0xfe], bytes.indexOf("XX"));
    await writeFile(`${file}.new`, bytes);
    await rename(`${file}.new`, file);
    await world.becomes("web", "active", /its lease vanished, but .* still answers there: kept/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
  });

  it("ends its forward at once when another guest has the address", async () => {
    await forge(leaseRow(DB), leaseRow({ mac: "52:54:00:00:00:99", address: WEB.address }));
    await world.becomes("web", "pending", /no live lease/);
  });

  it("ends its forward when the guest is off", async () => {
    await forge(leaseRow(DB));
    await world.becomes("web", "active", /still answers there: kept/);
    await world.writeMacs("virbr0", { db: [DB.mac] });
    await world.becomes("web", "pending", /guest is off/);
  });
});

describe("several live leases of one guest (PXE, then the installed system)", () => {
  it("follows the lease at which it answers, once it answers there", async () => {
    const pxe = leaseRow(WEB);
    const system = forged("192.168.122.77");
    await forge(pxe, system);
    await world.becomes("web", "active", /newer lease of 192\.168\.122\.77 passed over/);
    await world.lab.exec(["ip", "-n", "web", "address", "flush", "dev", "eth0"]);
    await world.lab.exec([
      "sh",
      "-ec",
      "ip -n web address add 192.168.122.77/24 dev eth0; ip -n web route add default via 192.168.122.1",
    ]);
    await expect
      .poll(async () => (await world.status()).forwards[0]?.address, { timeout: 120_000 })
      .toBe("192.168.122.77");
    await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
  });

  it("keeps the incumbent, marked unverified, when it answers at none", async () => {
    await world.lab.exec(["ip", "-n", "web", "link", "set", "eth0", "down"]);
    await forge(leaseRow(WEB), forged("192.168.122.77"));
    await world.becomes(
      "web",
      "active",
      /unverified: 52:54:00:6c:3c:01 has 2 live leases and answers at none/,
    );
    expect((await world.status()).forwards[0]?.address).toBe(WEB.address);
  });

  it("takes the newest, marked unverified, when it answers at none and there is no incumbent", async () => {
    await world.configure("guests:\n  other: {mac: 52:54:00:6c:3c:77, ports: [1122:22]}\n");
    await forge(
      leaseRow({ mac: "52:54:00:6c:3c:77", address: "192.168.122.70" }),
      forged("192.168.122.77", "52:54:00:6c:3c:77"),
    );
    await world.becomes("other", "active", /unverified/);
    expect((await world.status()).forwards[0]?.address).toBe("192.168.122.77");
  });
});

describe("a host name that another guest took from its incumbent", () => {
  beforeEach(async () => {
    await world.configure("guests:\n  site: {hostname: site, ports: [1122:22]}\n");
    await world.writeLeases("virbr0", [leaseRow(WEB, { hostname: "site" }), leaseRow(DB)]);
    await world.becomes("site", "active");
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("changes nothing while the incumbent has a lease", async () => {
    await forge(leaseRow(WEB), leaseRow(DB, { hostname: "site" }));
    await world.becomes("site", "active", /conflict/);
    expect(await world.web()).toBe(WEB_ANSWERS);
  });

  it("changes nothing after another guest released the incumbent's lease", async () => {
    await forge(leaseRow(DB, { hostname: "site" }));
    await world.becomes("site", "active", /conflict: its lease vanished, but .* still answers/);
    expect(await world.web()).toBe(WEB_ANSWERS);
    expect(moves()).toEqual([]);
    expect(await why("site")).toContain(DB.mac);
  });
});
