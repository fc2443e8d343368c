import { resolve } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  CLIENT,
  CLIENT_SECOND,
  createWorld,
  DB,
  FAR,
  HOST,
  HOST_SECOND,
  HOST_V6,
  leaseRow,
  leaseRow6,
  libvirtRules,
  libvirtRules6,
  NETWORKS,
  NETWORKS_V6,
  WEB,
} from "../../support/world.ts";
import type { World } from "../../support/world.ts";

const SCTP = resolve(import.meta.dirname, "../../support/sctp.py");

/** Rules alone do not prove that a forward works: these tests connect from a client through the host to a guest. */
describe.each(["nft", "legacy"] as const)("packets, iptables-%s", (variant) => {
  let world: World;

  beforeAll(async () => {
    world = await createWorld();
    await world.lab.exec([`iptables-${variant}-restore`, "--noflush"], {
      input: libvirtRules(NETWORKS),
    });
    await world.lab.exec([`ip6tables-${variant}-restore`, "--noflush"], {
      input: libvirtRules6(NETWORKS_V6),
    });
    await world.serve("web", "web", [
      "tcp:22",
      "tcp:80",
      "udp:53",
      "tcp:53",
      "tcp:9000",
      "tcp:9005",
      "tcp:9009",
      "tcp:9010",
    ]);
    await world.serve("db", "db", ["tcp:22", "tcp:9000", "udp:53"]);
    await world.serve("far", "far", ["tcp:22", "udp:53"]);
    await world.writeLeases("virbr0", [leaseRow(WEB), leaseRow6(WEB), leaseRow(DB)]);
    await world.writeLeases("virbr1", [leaseRow(FAR), leaseRow6(FAR)]);
    await world.writeMacs("virbr0", { web: [WEB.mac], db: [DB.mac] });
    await world.writeMacs("virbr1", { far: [FAR.mac] });
  });
  afterAll(() => world.close());
  beforeEach(({ onTestFailed }) =>
    onTestFailed(async () =>
      console.error((await world.lab.exec([`iptables-${variant}-save`, "-c"])).stdout),
    ),
  );

  /** Applies this config and no other guests. */
  async function publish(guests: string, rest = "", said: unknown = ""): Promise<void> {
    const { exitCode, stdout, stderr } = await world.run(
      "apply",
      `iptables: ${variant}\n${rest}\nguests:\n${guests}`,
    );
    expect({ exitCode, stderr }, stdout).toEqual({ exitCode: 0, stderr: said });
  }

  const tcp = (from: string, host: string, port: number, source?: string): Promise<string> =>
    world.ask(from, "tcp", host, port, source);
  const udp = (from: string, host: string, port: number, source?: string): Promise<string> =>
    world.ask(from, "udp", host, port, source);

  it("a tcp forward delivers connections with the client's address", async () => {
    await publish("  web: {ports: [1122:22, 1180:80]}");
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("client", HOST, 1180)).toBe(`web 80 ${CLIENT}`);
    expect(await tcp("client", HOST_SECOND, 1122)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("client", HOST, 1123)).toBe("denied");
  });

  it("a udp forward delivers udp and not tcp", async () => {
    await publish("  web: {ports: [5301:53/udp]}");
    expect(await udp("client", HOST, 5301)).toBe(`web 53 ${CLIENT}`);
    expect(await tcp("client", HOST, 5301)).toBe("denied");
  });

  it("a forward of protocol `both` delivers tcp and udp", async () => {
    await publish("  web: {ports: [5302:53/both]}");
    expect(await udp("client", HOST, 5302)).toBe(`web 53 ${CLIENT}`);
    expect(await tcp("client", HOST, 5302)).toBe(`web 53 ${CLIENT}`);
  });

  it("an sctp forward delivers sctp", async () => {
    await publish("  web: {ports: [2905:2906/sctp]}");
    const guest = world.lab.spawn(["python3", SCTP, "wait", "2906"], { netns: "web" });
    const client = world.lab.spawn(["python3", SCTP, "send", HOST, "2905"], { netns: "client" });
    expect(await guest.waitForLine(/hello/)).toBe(`hello from ${CLIENT}`);
    await client.kill("SIGKILL");
  });

  it("a range delivers each port to the same port of the guest", async () => {
    await publish("  web: {ports: [9000-9009:9000-9009]}");
    for (const port of [9000, 9005, 9009])
      expect(await tcp("client", HOST, port)).toBe(`web ${port} ${CLIENT}`);
    expect(await tcp("client", HOST, 9010)).toBe("denied");
  });

  it("a shifted range delivers each of its ports, and no other, to the shifted port", async () => {
    await publish("  web: {ports: [19000-19009:9000-9009]}");
    for (const port of [9000, 9005, 9009])
      expect(await tcp("client", HOST, port + 10_000)).toBe(`web ${port} ${CLIENT}`);
    expect(await tcp("client", HOST, 19_010)).toBe("denied");
    expect(await tcp("client", HOST, 18_999)).toBe("denied");
  });

  it("a guest reaches its own forward and those of guests on the same and on another network", async () => {
    await publish("  web: {ports: [1122:22]}\n  far: {ports: [1322:22]}");
    expect(await tcp("web", HOST, 1122)).toMatch(/^web 22 /);
    expect(await tcp("db", HOST, 1122)).toMatch(/^web 22 /);
    // libvirt masquerades whatever leaves a network, also for its next one.
    expect(await tcp("far", HOST, 1122)).toBe("web 22 192.168.122.1");
    expect(await tcp("web", "192.168.122.1", 1122)).toMatch(/^web 22 /);
    expect(await tcp("db", HOST, 1322)).toMatch(/^far 22 /);
  });

  it("guests on both networks reach ranges and udp forwards", async () => {
    await publish("  web: {ports: [19000-19009:9000-9009, 5301:53/udp]}\n  far: {ports: [5302:53/udp]}");
    for (const guest of ["web", "db", "far"]) {
      expect(await tcp(guest, HOST, 19_005)).toMatch(/^web 9005 /);
      expect(await udp(guest, HOST, 5301)).toMatch(/^web 53 /);
      expect(await udp(guest, HOST, 5302)).toMatch(/^far 53 /);
      expect(await tcp(guest, HOST, 19_010)).toBe("denied");
    }
  });

  it("libvirt's isolation of two networks still denies unpublished ports", async () => {
    await publish("  web: {ports: [1122:22]}\n  far: {ports: [1322:22]}");
    expect(await tcp("db", FAR.address, 22)).toBe("denied");
    expect(await tcp("far", WEB.address, 22)).toBe("denied");
    expect(await tcp("client", FAR.address, 22)).toBe("denied");
    expect(await tcp("client", HOST, 1322)).toBe(`far 22 ${CLIENT}`);
  });

  it("reach.guests: false denies guests, and neither clients nor the host", async () => {
    await publish("  web: {ports: [1122:22]}", "reach: {guests: false}");
    expect(await tcp("web", HOST, 1122)).toBe("denied");
    expect(await tcp("db", HOST, 1122)).toBe("denied");
    expect(await tcp("far", HOST, 1122)).toBe("denied");
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("host", HOST, 1122)).toMatch(/^web 22 /);
  });

  it("the host reaches a forward on the host's addresses unless reach.host is false", async () => {
    await publish("  web: {ports: [1122:22]}");
    expect(await tcp("host", HOST, 1122)).toMatch(/^web 22 /);
    expect(await tcp("host", "192.168.122.1", 1122)).toMatch(/^web 22 /);
    expect(await tcp("host", "127.0.0.1", 1122)).toBe("denied");
    await publish("  web: {ports: [1122:22]}", "reach: {host: false}");
    expect(await tcp("host", HOST, 1122)).toBe("denied");
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
  });

  it("an allowlist admits only its clients, and a port's list replaces the guest's", async () => {
    await publish(
      `  web: {allow: [${CLIENT_SECOND}/32], ports: [1122:22, {published: 1180, target: 80, allow: [${CLIENT}, 10.0.0.0/8]}]}`,
    );
    expect(await tcp("client", HOST, 1122, CLIENT)).toBe("denied");
    expect(await tcp("client", HOST, 1122, CLIENT_SECOND)).toBe(`web 22 ${CLIENT_SECOND}`);
    expect(await tcp("client", HOST, 1180, CLIENT)).toBe(`web 80 ${CLIENT}`);
    expect(await tcp("client", HOST, 1180, CLIENT_SECOND)).toBe("denied");
  });

  it("a forward answers only on its listen addresses", async () => {
    await publish(
      `  web: {ports: [1122:22]}\n  db: {ports: ["${HOST_SECOND}:2222:22"]}`,
      `listen: [${HOST}, 192.168.122.1]`,
    );
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("client", "192.168.122.1", 1122)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("client", HOST_SECOND, 1122)).toBe("denied");
    expect(await tcp("client", HOST_SECOND, 2222)).toBe(`db 22 ${CLIENT}`);
    expect(await tcp("client", HOST, 2222)).toBe("denied");
  });

  it("one port on two addresses reaches two guests", async () => {
    await publish(`  web: {ports: ["${HOST}:1122:22"]}\n  db: {ports: ["${HOST_SECOND}:1122:22"]}`);
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("client", HOST_SECOND, 1122)).toBe(`db 22 ${CLIENT}`);
  });

  it("one port published on an interface and on its address reaches the guest that is first in the config", async () => {
    const eth0 = "{published: 1122, target: 22, host_ip: lan0}";
    await publish(`  web: {ports: [${eth0}]}\n  db: {ports: ["${HOST}:1122:22"]}`);
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("client", HOST_SECOND, 1122)).toBe(`web 22 ${CLIENT}`);
    await publish(`  db: {ports: ["${HOST}:1122:22"]}\n  web: {ports: [${eth0}]}`);
    expect(await tcp("client", HOST, 1122)).toBe(`db 22 ${CLIENT}`);
    expect(await tcp("client", HOST_SECOND, 1122)).toBe(`web 22 ${CLIENT}`);
  });

  it("a listen interface means its IPv4 and IPv6 addresses", async () => {
    await publish("  web: {ports: [1122:22]}", "listen: lan0");
    expect(await tcp("client", HOST_SECOND, 1122)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("client", HOST_V6, 1122)).toBe("web 22 fd01::2");
    expect(await tcp("client", "192.168.122.1", 1122)).toBe("denied");
  });

  it("an IPv6 forward answers clients, the host and the guest itself", async () => {
    await publish("  web: {ports: [1122:22, '19000-19009:9000-9009']}", `listen: ["${HOST_V6}"]`);
    expect(await tcp("client", HOST_V6, 1122)).toBe("web 22 fd01::2");
    expect(await tcp("client", HOST_V6, 19_005)).toBe("web 9005 fd01::2");
    expect(await tcp("host", HOST_V6, 1122)).toMatch(/^web 22 /);
    expect(await tcp("web", HOST_V6, 1122)).toMatch(/^web 22 /);
    expect(await tcp("client", HOST, 1122)).toBe("denied");
  });

  it("IPv6 forwards have the protection of IPv4: no direct access, allowlists, udp, policy DROP", async () => {
    await publish(
      `  web: {ports: [1122:22, 5301:53/udp, {published: 1180, target: 80, allow: ["fd01::3/128", 10.0.0.0/8]}]}\n  far: {ports: [1322:22]}`,
      `listen: [lan0]`,
    );
    expect(await tcp("client", WEB.v6, 22)).toBe("denied");
    expect(await tcp("far", WEB.v6, 22)).toBe("denied");
    expect(await udp("client", HOST_V6, 5301)).toBe("web 53 fd01::2");
    expect(await tcp("client", HOST_V6, 1180)).toBe("denied");
    expect(await tcp("client", HOST_V6, 1180, "fd01::3")).toBe("web 80 fd01::3");
    expect(await tcp("db", HOST_V6, 1122)).toMatch(/^web 22 /);
    expect(await tcp("far", HOST_V6, 1122)).toBe(`web 22 ${FAR.v6}`);
    expect(await tcp("web", HOST_V6, 1322)).toMatch(/^far 22 /);
    await world.lab.exec([`ip6tables-${variant}`, "-P", "FORWARD", "DROP"]);
    try {
      expect(await tcp("client", HOST_V6, 1122)).toBe("web 22 fd01::2");
    } finally {
      await world.lab.exec([`ip6tables-${variant}`, "-P", "FORWARD", "ACCEPT"]);
    }
  });

  it("forwards work, and plan finds no change, when the bridge has a second address in its subnet", async () => {
    const addresses = ["192.168.122.254/24", "fd00:122::fe/64"];
    const change = async (verb: "add" | "del"): Promise<void> => {
      for (const each of addresses) await world.lab.exec(["ip", "address", verb, each, "dev", "virbr0"]);
    };
    await change("add");
    try {
      await publish("  web: {ports: [1122:22]}", "listen: lan0");
      expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
      expect(await tcp("client", HOST_V6, 1122)).toBe("web 22 fd01::2");
      expect(await tcp("db", HOST, 1122)).toMatch(/^web 22 /);
    } finally {
      await change("del");
    }
    const config = `iptables: ${variant}\nlisten: lan0\nguests:\n  web: {ports: [1122:22]}\n`;
    expect((await world.run("plan", config)).exitCode).toBe(0);
  });

  it("apply enables ip_forward when it is 0", async () => {
    await world.lab.exec(["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"]);
    const { stdout } = await world.run("apply", `iptables: ${variant}\nguests:\n  web: {ports: [1122:22]}\n`);
    expect(stdout).toMatch(/net\.ipv4\.ip_forward was 0: set to 1/);
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
  });

  it("guests reach the published port number on other hosts", async () => {
    await world.serve("client", "client", ["tcp:1122"]);
    await publish("  web: {ports: [1122:22]}");
    expect(await tcp("db", CLIENT, 1122)).toMatch(/^client 1122 /);
    expect(await tcp("host", CLIENT, 1122)).toMatch(/^client 1122 /);
  });

  it("a client with a route to the guests' subnet cannot reach a guest directly", async () => {
    await publish("  web: {ports: [1122:22]}");
    expect(await tcp("client", WEB.address, 22)).toBe("denied");
    expect(await tcp("client", WEB.address, 80)).toBe("denied");
  });

  it("forwards work when the policy of FORWARD is DROP, as Docker sets it", async () => {
    await publish("  web: {ports: [1122:22]}\n  far: {ports: [1322:22]}");
    await world.lab.exec([`iptables-${variant}`, "-P", "FORWARD", "DROP"]);
    try {
      expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
      expect(await tcp("client", HOST, 1322)).toBe(`far 22 ${CLIENT}`);
      expect(await tcp("client", FAR.address, 22)).toBe("denied");
    } finally {
      await world.lab.exec([`iptables-${variant}`, "-P", "FORWARD", "ACCEPT"]);
    }
  });

  it("apply moves kvmnatd's jump before libvirt's when it is behind it", async () => {
    await publish("  web: {ports: [1122:22]}");
    const jump = ["FORWARD", "-m", "comment", "--comment", "kvmnatd:@jump", "-j", "KVMNATD-FWD"];
    await world.lab.exec([`iptables-${variant}`, "-D", ...jump]);
    await world.lab.exec([`iptables-${variant}`, "-A", ...jump]);
    expect(await tcp("client", HOST, 1122)).toBe("denied");
    await publish("  web: {ports: [1122:22]}");
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
    const { stdout } = await world.lab.exec([`iptables-${variant}-save`, "-t", "filter"]);
    expect(stdout.match(/-j KVMNATD-FWD$/gm)).toHaveLength(1);
  });

  it("an admin's DROP above libvirt's rules stays in force", async () => {
    await world.lab.exec([`iptables-${variant}`, "-I", "FORWARD", "-s", CLIENT_SECOND, "-j", "DROP"]);
    await publish("  web: {ports: [1122:22]}");
    const jump = ["FORWARD", "-m", "comment", "--comment", "kvmnatd:@jump", "-j", "KVMNATD-FWD"];
    await world.lab.exec([`iptables-${variant}`, "-D", ...jump]);
    await publish("  web: {ports: [1122:22]}");
    expect(await tcp("client", HOST, 1122, CLIENT)).toBe(`web 22 ${CLIENT}`);
    expect(await tcp("client", HOST, 1122, CLIENT_SECOND)).toBe("denied");
    await world.lab.exec([`iptables-${variant}`, "-D", "FORWARD", "-s", CLIENT_SECOND, "-j", "DROP"]);
  });

  it("apply replaces an edited kvmnatd rule whose comment is unchanged", async () => {
    await publish("  web: {ports: [1122:22]}");
    const { stdout } = await world.lab.exec([`iptables-${variant}-save`, "-t", "nat"]);
    const rule = /^-A (KVMNATD-DNAT .*)$/m.exec(stdout)?.[1] ?? "";
    const edited = rule.replace("192.168.122.11:22", "192.168.122.12:22");
    const input = `*nat\n-D ${rule}\n-A ${edited}\nCOMMIT\n`;
    await world.lab.exec([`iptables-${variant}-restore`, "--noflush"], { input });
    expect(await tcp("client", HOST, 1122)).toBe(`db 22 ${CLIENT}`);
    await publish("  web: {ports: [1122:22]}");
    expect(await tcp("client", HOST, 1122)).toBe(`web 22 ${CLIENT}`);
  });

  it("apply and teardown leave the rules of other programs unchanged", async () => {
    await world.run("teardown", "guests: {}");
    // The first rule in a table creates the table and its empty built-in chains, and the kernel keeps them.
    const some = ["PREROUTING", "-j", "RETURN"];
    for (const verb of ["-A", "-D"])
      await world.lab.exec([`iptables-${variant}`, "-t", "raw", verb, ...some]);
    const before = await world.foreignRules();
    expect(before).toContain("LIBVIRT_FWI");
    await publish(
      "  web: {ports: [1122:22, 5301:53/udp]}\n  far: {ports: [1322:22]}",
      "reach: {loopback: true}",
    );
    expect(await world.foreignRules()).toBe(before);
    const { exitCode } = await world.run("teardown", "guests: {}");
    expect(exitCode).toBe(0);
    expect(await world.foreignRules()).toBe(before);
    for (const save of [
      "iptables-nft-save",
      "iptables-legacy-save",
      "ip6tables-nft-save",
      "ip6tables-legacy-save",
    ])
      expect((await world.lab.exec([save])).stdout).not.toMatch(/kvmnatd/i);
    expect(await sysctl("net/ipv4/conf/virbr0/route_localnet")).toBe("0");
  });

  async function sysctl(path: string): Promise<string> {
    return (await world.lab.exec(["cat", `/proc/sys/${path}`])).stdout.trim();
  }

  describe("reach.loopback", () => {
    /** Makes the guest send packets for 127.0.0.1 to the host. */
    const ATTACK = `
      ip route add table 77 127.0.0.1/32 via 192.168.122.1 dev eth0
      ip rule del pref 0; ip rule add pref 10 table local
      ip rule add pref 5 to 127.0.0.1/32 dport 7777 lookup 77
      echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet`;
    const LOCALNET = "net/ipv4/conf/virbr0/route_localnet";
    const attack = (): Promise<string> => tcp("db", "127.0.0.1", 7777, DB.address);
    const loseGuard = (): Promise<unknown> => world.lab.exec([`iptables-${variant}`, "-t", "raw", "-F"]);

    beforeAll(async () => {
      await world.serve("host", "secret", ["tcp:7777"]);
      await world.lab.exec(["sh", "-ec", ATTACK], { netns: "db" });
    });

    it("127.0.0.1 reaches the first guest of a port, unless another guest names 127.0.0.1", async () => {
      const two = `  web: {ports: ["${HOST}:1122:22"]}\n  db: {ports: ["${HOST_SECOND}:1122:22"`;
      const warning = expect.stringMatching(/warning: .*127\.0\.0\.1/);
      await publish(`${two}]}`, "reach: {loopback: true}", warning);
      expect(await tcp("host", "127.0.0.1", 1122)).toMatch(/^web 22 /);
      expect(await tcp("client", HOST_SECOND, 1122)).toBe(`db 22 ${CLIENT}`);
      await publish(`${two}, "127.0.0.1:1122:22"]}`, "reach: {loopback: true}");
      expect(await tcp("host", "127.0.0.1", 1122)).toMatch(/^db 22 /);
      await publish("  web: {ports: [1122:22]}");
    });

    it("a forward that names only 127.0.0.1 answers only there", async () => {
      for (const where of ["host_ip: 127.0.0.1", "host_ip: lo"]) {
        await publish(`  web: {ports: [{published: 1122, target: 22, ${where}}]}`, "reach: {loopback: true}");
        expect(await tcp("host", "127.0.0.1", 1122)).toMatch(/^web 22 /);
        expect(await tcp("host", "127.0.0.2", 1122)).toBe("denied");
        expect(await tcp("host", HOST, 1122)).toBe("denied");
        expect(await tcp("client", HOST, 1122)).toBe("denied");
      }
      await publish("  web: {ports: [1122:22]}");
    });

    it("the host reaches a forward on 127.0.0.1 with any `listen`, and a guest cannot reach the host's 127.0.0.1", async () => {
      await publish("  web: {ports: [1122:22]}", `reach: {loopback: true}\nlisten: ${HOST}`);
      expect(await tcp("host", "127.0.0.1", 1122)).toMatch(/^web 22 /);
      expect(await tcp("host", "127.0.0.1", 7777)).toMatch(/^secret 7777 /);
      expect(await attack()).toBe("denied");

      // Proof that the guard denies the attack: without it the same packets reach the host.
      await loseGuard();
      expect(await attack()).toMatch(/^secret 7777 /);
      await publish("  web: {ports: [1122:22]}", `reach: {loopback: true}\nlisten: ${HOST}`);
      expect(await attack()).toBe("denied");

      await publish("  web: {ports: [1122:22]}");
      expect(await sysctl(LOCALNET)).toBe("0");
      expect(await attack()).toBe("denied");
      expect(await tcp("host", "127.0.0.1", 1122)).toBe("denied");
    });

    it.each(["apply", "teardown"])(
      "%s disables route_localnet when the guard was removed",
      async (command) => {
        await publish("  web: {ports: [1122:22]}", "reach: {loopback: true}");
        await loseGuard();
        expect(await attack()).toMatch(/^secret 7777 /);
        const config = `iptables: ${variant}\nguests:\n  web: {ports: [1122:22]}\n`;
        expect((await world.run("plan", config)).stdout).toMatch(
          /- sysctl -w net\.ipv4\.conf\.virbr0\.route_localnet=0/,
        );
        const { exitCode, stdout } = await world.run(command, config);
        expect(exitCode).toBe(0);
        expect(stdout).toMatch(/net\.ipv4\.conf\.virbr0\.route_localnet was 2: set to 0/);
        expect(await attack()).toBe("denied");
      },
    );

    it("route_localnet stays set when an admin set it", async () => {
      await world.lab.exec(["sh", "-c", `echo 1 > /proc/sys/${LOCALNET}`]);
      await publish("  web: {ports: [1122:22]}", "reach: {loopback: true}");
      expect(await tcp("host", "127.0.0.1", 1122)).toMatch(/^web 22 /);
      await publish("  web: {ports: [1122:22]}");
      await world.run("teardown", "guests: {}");
      expect(await sysctl(LOCALNET)).toBe("1");
      await world.lab.exec(["sh", "-c", `echo 0 > /proc/sys/${LOCALNET}`]);
    });
  });
});
