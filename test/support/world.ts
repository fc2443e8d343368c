import { mkdir, rename, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { createLab, until, writeConfig } from "./lab.ts";
import type { ExecResult, Lab, LabProcess } from "./lab.ts";

const PEER = resolve(import.meta.dirname, "peer.ts");

/*
 *                     +--------------- host ----------------+
 *  client             | lan0               virbr0           |---- web  192.168.122.11  fd00:122::11
 *  198.51.100.2, .3 --| 198.51.100.1, .9   192.168.122.1    |---- db   192.168.122.12
 *  fd01::2, ::3       | fd01::1            fd00:122::1      |
 *                     |                    virbr1 10.7.0.1  |---- far  10.7.0.13
 *                     +-------------------------------------+
 */
export const HOST = "198.51.100.1";
export const HOST_SECOND = "198.51.100.9";
export const HOST_V6 = "fd01::1";
export const CLIENT = "198.51.100.2";
export const CLIENT_SECOND = "198.51.100.3";

export const WEB = { name: "web", mac: "52:54:00:6c:3c:01", address: "192.168.122.11", v6: "fd00:122::11" };
export const DB = { name: "db", mac: "52:54:00:6c:3c:02", address: "192.168.122.12", v6: "fd00:122::12" };
export const FAR = { name: "far", mac: "52:54:00:6c:3c:03", address: "10.7.0.13", v6: "fd00:7::13" };

/** A row of libvirt's `<bridge>.status`; anything, for files that nobody should trust. */
export type LeaseRow = Readonly<Record<string, unknown>>;

export interface World {
  readonly lab: Lab;
  readonly dnsmasqDir: string;
  /** Asks from a namespace (`host`: the host itself); the answer `NAME PORT CLIENT`, or `denied`. */
  ask(from: string, protocol: "tcp" | "udp", host: string, port: number, source?: string): Promise<string>;
  serve(netns: string, name: string, ports: readonly string[]): Promise<LabProcess>;
  /** A TCP client that is asked again and again: knocks at host ports, answers as `ask` does. */
  prober(from: string): (host: string, port: number, source: string) => Promise<string>;
  /** A UDP client that never pauses, so that conntrack never forgets it. */
  send(from: string, host: string, port: number): LabProcess;
  /** Reads a stream; a line each 100 ms in which more has come. */
  load(from: string, host: string, port: number): LabProcess;
  /** An open TCP connection. */
  hold(from: string, host: string, port: number): LabProcess;
  /** Replaces a lease file as libvirt's helper does, and lets the namespaces answer as the guests whose leases these are. */
  writeLeases(bridge: string, rows: readonly LeaseRow[]): Promise<void>;
  /** Lets the namespaces answer so, and writes nothing. */
  answerAs(bridge: string, rows: readonly LeaseRow[]): Promise<void>;
  /** Gives a guest's namespace a further address. */
  addAddress(netns: string, address: string): Promise<void>;
  /** Replaces the lease file alone: rows that are not true. */
  forgeLeases(bridge: string, rows: readonly LeaseRow[]): Promise<void>;
  writeMacs(bridge: string, domains: Readonly<Record<string, readonly string[]>>): Promise<void>;
  /** `kvmnatd COMMAND` with this config. */
  run(command: string, config: string): Promise<ExecResult>;
  /** All rules that are not kvmnatd's, without counters: of both variants and families; of the host, or of a namespace. */
  foreignRules(netns?: string): Promise<string>;
  close(): Promise<void>;
}

export function leaseRow(
  guest: { readonly mac: string; readonly address: string },
  more: LeaseRow = {},
): LeaseRow {
  const expiry = Math.floor(Date.now() / 1000) + 3600;
  return { "ip-address": guest.address, "mac-address": guest.mac, "expiry-time": expiry, ...more };
}

export function leaseRow6(guest: { readonly mac: string; readonly v6: string }): LeaseRow {
  return leaseRow({ mac: guest.mac, address: guest.v6 }, { iaid: "1", "server-duid": "00:01" });
}

// Without duplicate address detection (accept_dad): a world whose links go on changing for seconds wakes the daemon
// in the middle of a test, and the log then names another reason than the test's.
const NETWORK = `
echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
net() { ip link add $1 type bridge stp_state 0 forward_delay 0 mcast_snooping 0; ip address add $2/24 dev $1; ip address add $3/64 dev $1 nodad; ip link set $1 up; }
guest() { # NAME BRIDGE MAC ADDRESS GATEWAY V6 GATEWAY6
  ip netns add $1
  ip link add $1-tap type veth peer name eth0 address $3 netns $1
  ip link set $1-tap master $2 up
  ip -n $1 link set lo up; ip -n $1 link set eth0 up
  ip -n $1 address add $4/24 dev eth0; ip -n $1 route add default via $5
  ip -n $1 address add $6/64 dev eth0 nodad; ip -n $1 route add default via $7
}
net virbr0 192.168.122.1 fd00:122::1
net virbr1 10.7.0.1 fd00:7::1
guest web virbr0 ${WEB.mac} ${WEB.address} 192.168.122.1 ${WEB.v6} fd00:122::1
guest db virbr0 ${DB.mac} ${DB.address} 192.168.122.1 ${DB.v6} fd00:122::1
guest far virbr1 ${FAR.mac} ${FAR.address} 10.7.0.1 ${FAR.v6} fd00:7::1
ip netns add client
ip link add lan0 type veth peer name eth0 netns client
ip address add ${HOST}/24 dev lan0; ip address add ${HOST_SECOND}/24 dev lan0; ip address add ${HOST_V6}/64 dev lan0 nodad
ip link set lan0 up
ip -n client link set lo up; ip -n client link set eth0 up
ip -n client address add ${CLIENT}/24 dev eth0; ip -n client address add ${CLIENT_SECOND}/24 dev eth0
ip -n client address add fd01::3/64 dev eth0 nodad; ip -n client address add fd01::2/64 dev eth0 nodad
ip -n client route add default via ${HOST}; ip -n client route add default via ${HOST_V6}
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
`;

export async function createWorld(): Promise<World> {
  const lab = await createLab();
  const dnsmasqDir = join(lab.dir, "dnsmasq");
  await mkdir(dnsmasqDir);
  await lab.exec(["sh", "-ec", NETWORK]);
  // The first neighbour discovery may be lost, and the next comes a second later: that is before the tests.
  for (const address of [WEB.address, WEB.v6, DB.address, DB.v6, FAR.address, FAR.v6, CLIENT, "fd01::2"])
    await until(`${address} answers the host`, async () => {
      const { exitCode } = await lab.exec(["busybox", "ping", "-c", "1", "-W", "1", address], {
        check: false,
      });
      return exitCode === 0;
    });
  const { answerAs, addAddress } = createImpersonation(lab);
  const replace = async (name: string, value: unknown): Promise<void> => {
    await writeFile(join(dnsmasqDir, `${name}.new`), `${JSON.stringify(value, undefined, 2)}\n`);
    await rename(join(dnsmasqDir, `${name}.new`), join(dnsmasqDir, name));
  };
  return {
    lab,
    dnsmasqDir,
    ask: createAsk(lab),
    serve: async (netns, name, ports) => {
      const server = lab.spawn([process.execPath, PEER, "serve", name, ...ports], at(netns));
      for (const port of ports) await server.waitForLine(new RegExp(`^listening ${port.replace(":", " ")}$`));
      return server;
    },
    prober: (from) => {
      const client = lab.spawn([process.execPath, PEER, "probe"], at(from));
      let asked = 0;
      return async (host, port, source) => {
        const number = `${asked++} `;
        client.stdin.write(`${number}${host} ${port} ${source}\n`);
        const line = await until("the prober has an answer", () =>
          client.lines.find((each) => each.startsWith(number)),
        );
        return line.slice(number.length);
      };
    },
    send: (from, host, port) => lab.spawn([process.execPath, PEER, "send", host, `${port}`], at(from)),
    load: (from, host, port) => lab.spawn([process.execPath, PEER, "load", host, `${port}`], at(from)),
    hold: (from, host, port) => lab.spawn([process.execPath, PEER, "hold", host, `${port}`], at(from)),
    writeLeases: async (bridge, rows) => {
      await answerAs(bridge, rows);
      await replace(`${bridge}.status`, rows);
    },
    answerAs,
    addAddress,
    forgeLeases: (bridge, rows) => replace(`${bridge}.status`, rows),
    writeMacs: (bridge, domains) =>
      replace(
        `${bridge}.macs`,
        Object.entries(domains).map(([domain, macs]) => ({ domain, macs })),
      ),
    run: async (command, config) => {
      const file = await writeConfig(lab, config);
      return lab.kvmnatd([...command.split(" "), "-c", file, "--dnsmasq-dir", dnsmasqDir]);
    },
    foreignRules: async (netns = "host") => {
      // nft 1.0.6 can list chains that do not exist while a daemon writes its own rules.
      const read = async (): Promise<string> => (await lab.exec(["sh", "-ec", FOREIGN], at(netns))).stdout;
      let text = await read();
      await until("the foreign rules are read twice alike", async () => {
        const before = text;
        text = await read();
        return text === before;
      });
      return text;
    },
    close: () => lab.close(),
  };
}

const at = (from: string): { readonly netns?: string } => (from === "host" ? {} : { netns: from });

/** One process in each namespace asks all questions from there; each question has a socket of its own. */
function createAsk(lab: Lab): World["ask"] {
  const clients = new Map<string, LabProcess>();
  let asked = 0;
  return async (from, protocol, host, port, source) => {
    const client = clients.get(from) ?? lab.spawn([process.execPath, PEER, "asks"], at(from));
    clients.set(from, client);
    void client.exited.then(() => clients.delete(from));
    const number = `${asked++} `;
    client.stdin.write(`${number}${[protocol, host, port, source ?? []].flat().join(" ")}\n`);
    const line = await until(
      () => `an answer from ${from}: ${client.lines.slice(-5).join("\n")}`,
      () => client.lines.find((each) => each.startsWith(number)),
    );
    return line.slice(number.length);
  };
}

type Impersonation = Pick<World, "answerAs" | "addAddress">;

/**
 * Moves guests between the namespaces. When a guest's lease moves to another address, the namespace with that address gets
 * the guest's MAC, because the daemon probes which MAC answers. A namespace without a lease gets a MAC of no guest.
 */
function createImpersonation(lab: Lab): Impersonation {
  const places = [
    { ...WEB, bridge: "virbr0" },
    { ...DB, bridge: "virbr0" },
    { ...FAR, bridge: "virbr1" },
  ].map((place) => ({ ...place, addresses: new Set<string>([place.address, place.v6]) }));
  const macs = new Map(places.map((place) => [place.name, place.mac]));
  const answerAs = async (bridge: string, rows: readonly LeaseRow[]): Promise<void> => {
    let script = "";
    for (const [index, place] of places.entries()) {
      if (place.bridge !== bridge) continue;
      const row = rows.findLast((each) => place.addresses.has(String(each["ip-address"])));
      const owner = String(row?.["mac-address"]).toLowerCase();
      const mac = /^52:54(:[0-9a-f]{2}){4}$/.test(owner) ? owner : `52:54:00:ff:00:0${index + 1}`;
      if (macs.get(place.name) === mac) continue;
      macs.set(place.name, mac);
      script += `ip -n ${place.name} link set eth0 address ${mac}\n`;
    }
    if (script !== "")
      await lab.exec(["sh", "-ec", `${script}ip neigh flush dev ${bridge} nud all 2>/dev/null || :`]);
  };
  const addAddress = async (netns: string, address: string): Promise<void> => {
    await lab.exec(["ip", "-n", netns, "address", "add", `${address}/24`, "dev", "eth0"]);
    places.find(({ name }) => name === netns)?.addresses.add(address);
  };
  return { answerAs, addAddress };
}

/** Tables of nft's own come last: no iptables shows them. */
const FOREIGN = `
for each in iptables-nft iptables-legacy ip6tables-nft ip6tables-legacy; do
  echo "== $each"; $each-save | grep -v -e '^#' -e KVMNATD- -e '"kvmnatd:@' | sed 's/ \\[[0-9:]*\\]$//'
done
nft list tables | grep -v -E '^table ip6? (filter|nat|mangle|raw|security)$' | while read -r table; do
  echo "== nft $table"; nft --stateless list $table | grep -v '"kvmnatd:@' | sed '/^\tchain kvmnatd {$/,/^\t}$/d; /^$/d'
done
`;

/** libvirt's nftables backend as libvirt 11.3 makes it: its reject cannot be overruled from any table but its own. */
export const LIBVIRT_TABLE = `
table ip libvirt_network {
  chain forward {
    type filter hook forward priority filter; policy accept;
    counter jump guest_cross
    counter jump guest_input
    counter jump guest_output
  }
  chain guest_output {
    ip saddr 192.168.122.0/24 iif "virbr0" counter accept
    iif "virbr0" counter reject
  }
  chain guest_input {
    oif "virbr0" ip daddr 192.168.122.0/24 ct state established,related counter accept
    oif "virbr0" counter reject
  }
  chain guest_cross {
    iif "virbr0" oif "virbr0" counter accept
  }
}
`;

/** A network of libvirt's: its bridge and its subnet. */
type LibvirtNetwork = readonly [bridge: string, subnet: string];

export const NETWORKS: readonly LibvirtNetwork[] = [
  ["virbr0", "192.168.122.0/24"],
  ["virbr1", "10.7.0.0/24"],
];
export const NETWORKS_V6: readonly LibvirtNetwork[] = [
  ["virbr0", "fd00:122::/64"],
  ["virbr1", "fd00:7::/64"],
];

/** What libvirt's iptables backend makes for active networks, as `iptables-save` shows it for libvirt 9 to 12. */
export function libvirtRules(networks: readonly LibvirtNetwork[]): string {
  return `${filterRules(networks, "icmp-port-unreachable", [67, 68])}*nat
:LIBVIRT_PRT - [0:0]
-I POSTROUTING -j LIBVIRT_PRT
${networks.flatMap(masquerade).join("\n")}
COMMIT
*mangle
:LIBVIRT_PRT - [0:0]
-I POSTROUTING -j LIBVIRT_PRT
${networks.map(([bridge]) => `-A LIBVIRT_PRT -o ${bridge} -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill`).join("\n")}
COMMIT
`;
}

/** The same for ip6tables; IPv6 is routed, not masqueraded. */
export function libvirtRules6(networks: readonly LibvirtNetwork[]): string {
  return filterRules(networks, "icmp6-port-unreachable", [547, 546]);
}

/** @param dhcp the server's port and the client's */
function filterRules(
  networks: readonly LibvirtNetwork[],
  reject: string,
  [server, client]: readonly [number, number],
): string {
  const rules = networks.flatMap(([bridge, subnet]) => [
    ...services("LIBVIRT_INP", `-i ${bridge}`, server),
    ...services("LIBVIRT_OUT", `-o ${bridge}`, client),
    `-A LIBVIRT_FWI -d ${subnet} -o ${bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
    `-A LIBVIRT_FWI -o ${bridge} -j REJECT --reject-with ${reject}`,
    `-A LIBVIRT_FWO -s ${subnet} -i ${bridge} -j ACCEPT`,
    `-A LIBVIRT_FWO -i ${bridge} -j REJECT --reject-with ${reject}`,
    `-A LIBVIRT_FWX -i ${bridge} -o ${bridge} -j ACCEPT`,
  ]);
  return `*filter
:LIBVIRT_FWI - [0:0]
:LIBVIRT_FWO - [0:0]
:LIBVIRT_FWX - [0:0]
:LIBVIRT_INP - [0:0]
:LIBVIRT_OUT - [0:0]
-I INPUT -j LIBVIRT_INP
-I FORWARD -j LIBVIRT_FWO
-I FORWARD -j LIBVIRT_FWI
-I FORWARD -j LIBVIRT_FWX
-I OUTPUT -j LIBVIRT_OUT
${rules.join("\n")}
COMMIT
`;
}

/** DNS and DHCP. */
function services(chain: string, side: string, dhcp: number): readonly string[] {
  return [53, dhcp].flatMap((port) =>
    ["udp", "tcp"].map(
      (protocol) => `-A ${chain} ${side} -p ${protocol} -m ${protocol} --dport ${port} -j ACCEPT`,
    ),
  );
}

function masquerade([, subnet]: LibvirtNetwork): readonly string[] {
  const outside = `-A LIBVIRT_PRT -s ${subnet} ! -d ${subnet}`;
  return [
    `-A LIBVIRT_PRT -s ${subnet} -d 224.0.0.0/24 -j RETURN`,
    `-A LIBVIRT_PRT -s ${subnet} -d 255.255.255.255/32 -j RETURN`,
    `${outside} -p tcp -j MASQUERADE --to-ports 1024-65535`,
    `${outside} -p udp -j MASQUERADE --to-ports 1024-65535`,
    `${outside} -j MASQUERADE`,
  ];
}
