import { createLab, startDaemon, until, untilStatus, writeConfig } from "./lab.ts";
import type { DaemonStatus } from "../../src/status/status.ts";
import type { Daemon, ExecResult, Lab, LogLine } from "./lab.ts";
import { reload, settle } from "./settle.ts";
import { mountTree } from "./tree.ts";
import type { Tree } from "./tree.ts";

/** What a client sees when the published port leads nowhere. */
export const NOTHING = "nothing";

export const HOST_ADDRESS = "10.99.0.1";

const DNSMASQ_FOLDER = "/var/lib/libvirt/dnsmasq";
const STATUS_FILE = `${DNSMASQ_FOLDER}/virbr0.status`;
const DHCP_SCRIPT = "/run/dhcp-event";
/** Interval in which a pending second look is made: it comes 150 ms after an event. A reload leaves nothing else pending. */
const REST_MS = 500;
/** Virsh itself waits for libvirtd; this is for what comes after it. */
const SOON_MS = 120_000;

/** Private copies of all that libvirt writes; /run is the lab's own. */
const PRIVATE = `
tree=$1
mkdir -p /run/private/etc/libvirt
cp -a $tree/etc/libvirt/. /run/private/etc/libvirt/
for folder in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
  mkdir -p /run/private$folder
  mount --bind /run/private$folder $folder
  [ -z "$tree" ] || mount --bind /run/private$folder $tree$folder
done
`;

/**
 * libvirt's stock network, but for two things that cost 7 s a lease and prove nothing here: STP, and dnsmasq's ping
 * before an offer. And what the guests' DHCP clients run.
 */
export const PREPARE: string = `
mkdir -p /run/libvirt ${DNSMASQ_FOLDER}
rm -rf /etc/libvirt/qemu/networks/autostart
cat > /etc/libvirt/qemu/networks/default.xml <<'XML'
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>default</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='off' delay='0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
  </ip>
  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
</network>
XML
cat > ${DHCP_SCRIPT} <<'SH'
#!/bin/sh
ip -4 address flush dev $interface
case $1 in bound | renew)
  ip address add $ip/$mask dev $interface
  ip route replace default via $router dev $interface
esac
SH
chmod +x ${DHCP_SCRIPT}
`;

/**
 * Changes two things of the tree. libvirt's nftables backend corrects DHCP checksums by a `tc` action: net-start fails on a
 * kernel without that action, and no test needs these checksums. libvirt 11.3's driver of host devices sometimes hangs when
 * libvirtd stops soon after its start: no network needs that driver.
 */
export const SMOOTH: string = `
cd $1/usr
rm -f lib/*/libvirt/connection-driver/libvirt_driver_nodedev.so
mv sbin/tc sbin/tc.real
cat > sbin/tc <<'SH'
#!/bin/sh
tc.real "$@" && exit
code=$?
case "$*" in *"action csum"*) exit 0 ;; esac
exit $code
SH
chmod +x sbin/tc
`;

/**
 * Runs libvirtd as a subreaper (PR_SET_CHILD_SUBREAPER of x86-64): it waits until each QEMU that it has ended is really
 * gone, and QEMU daemonizes, but the first process of a lab reaps nobody.
 */
const REAPER = `
$| = 1;
syscall 157, 36, 1, 0, 0, 0;
system "libvirtd -d -p /run/libvirtd.pid" and exit 1;
print "libvirtd is up\n";
1 while wait > 0;
`;

/** A LAN client in a namespace of its own; the host is its gateway. */
export const CLIENT: string = `
ip netns add client
ip link add lan0 type veth peer name eth0 netns client
ip address add ${HOST_ADDRESS}/24 dev lan0
ip link set lan0 up
ip -n client link set lo up
ip -n client address add 10.99.0.2/24 dev eth0
ip -n client link set eth0 up
ip -n client route add default via ${HOST_ADDRESS}
`;

/** Where libvirt keeps its rules. */
export type Backend = "nftables" | "iptables";

/** A libvirtd with its private state, and a LAN client. */
export interface Libvirt {
  readonly lab: Lab;
  /** Where its programs are; undefined: they are this machine's own. */
  readonly tree: Tree | undefined;
  start(): Promise<void>;
  /** Ends libvirtd and starts it again: it rewrites its rules if a network is active. */
  restart(): Promise<void>;
  /** Changes the backend, for libvirtd's next start. */
  setBackend(backend: Backend): Promise<void>;
  /** SIGHUP; returns when libvirt has rewritten its rules. */
  reload(): Promise<void>;
  virsh(command: string): Promise<string>;
  startNetwork(): Promise<void>;
  stopNetwork(): Promise<void>;
  /** Adds a DHCP reservation, which makes libvirt rewrite its rules. */
  reserve(mac: string, address: string): Promise<void>;
  leases(): Promise<readonly LeaseRow[]>;
  /** Replaces the lease file as libvirt's helper does. */
  writeLeases(rows: readonly LeaseRow[]): Promise<void>;
  /** The greeting that the client gets at a published port, or {@link NOTHING}. */
  dial(port: number): Promise<string>;
}

/** A row of virbr0.status. */
interface LeaseRow {
  readonly "ip-address": string;
  readonly "mac-address": string;
  readonly "expiry-time": number;
}

async function createLibvirt(lab: Lab, backend: Backend | undefined): Promise<Libvirt> {
  const sh = (script: string): Promise<string> => runScript(lab, script);
  const tree = backend === undefined ? undefined : await mountTree(lab);
  await lab.exec(["sh", "-ec", PRIVATE + PREPARE + CLIENT, "sh", tree?.root ?? ""]);
  const run = async (command: string): Promise<string> => {
    const argv = ["sh", "-ec", command];
    return (await lab.exec(tree?.run(argv) ?? argv)).stdout.trim();
  };
  const virsh = (command: string): Promise<string> => run(`virsh -q ${command}`);
  const setBackend = async (name: Backend): Promise<void> =>
    void (await sh(`echo 'firewall_backend = "${name}"' > /etc/libvirt/network.conf`));
  if (tree !== undefined) await lab.exec(["sh", "-ec", SMOOTH, "sh", tree.root]);
  if (backend !== undefined) await setBackend(backend);
  const start = async (): Promise<void> => {
    if (tree === undefined) await sh("libvirtd -d -p /run/libvirtd.pid");
    else await lab.spawn(tree.run(["perl", "-e", REAPER])).waitForLine(/^libvirtd is up$/);
    await virsh("net-list");
  };
  // Renamed into place 2-14 ms after libvirt has rewritten its rules: a new inode says that it is done.
  const rewritten = async (act: () => Promise<unknown>): Promise<void> => {
    const inode = (): Promise<string> => sh(`stat -c %i ${DNSMASQ_FOLDER}/default.hostsfile || true`);
    const before = await inode();
    await act();
    await until("libvirt has rewritten its rules", async () => (await inode()) !== before, SOON_MS);
  };
  return {
    lab,
    tree,
    start,
    virsh,
    setBackend,
    restart: () =>
      rewritten(async () => {
        await sh("kill $(cat /run/libvirtd.pid)");
        await until("libvirtd has ended", async () => (await sh("pidof libvirtd || true")) === "", SOON_MS);
        await start();
      }),
    reload: () => rewritten(() => sh("kill -HUP $(cat /run/libvirtd.pid)")),
    startNetwork: async () => void (await virsh("net-start default")),
    stopNetwork: async () => void (await virsh("net-destroy default")),
    reserve: (mac, address) =>
      rewritten(() =>
        virsh(`net-update default add ip-dhcp-host "<host mac='${mac}' ip='${address}'/>" --live --config`),
      ),
    leases: async () => {
      const text = await sh(`cat ${STATUS_FILE}`);
      return text.trim() === "" ? [] : (JSON.parse(text) as readonly LeaseRow[]);
    },
    writeLeases: async (rows) => {
      const text = JSON.stringify(rows, undefined, 2);
      await sh(`cat > ${STATUS_FILE}.new <<'JSON'\n${text}\nJSON\nmv ${STATUS_FILE}.new ${STATUS_FILE}`);
    },
    dial: (port) => dial(lab, port),
  };
}

/** The greeting that the LAN client gets at a published port, or {@link NOTHING}. */
export function dial(lab: Lab, port: number): Promise<string> {
  return runScript(
    lab,
    `ip netns exec client socat -u TCP4:${HOST_ADDRESS}:${port},connect-timeout=1 - 2>/dev/null || echo ${NOTHING}`,
  );
}

/** A running domain without qemu: its NIC is a veth with a real DHCP client behind it. */
export interface LabGuest {
  readonly name: string;
  readonly mac: string;
  /** The domain starts: libvirt makes its port and writes its name into virbr0.macs; the NIC joins the bridge. */
  powerOn(): Promise<void>;
  /** The domain ends without a DHCP release. */
  powerOff(): Promise<void>;
  /** Requests a lease. @param wanted the address to request @returns the address that the server gave */
  takeLease(wanted?: string): Promise<string>;
  releaseLease(): Promise<void>;
  /** Starts a server that sends each client its name and the address that the client connected to. */
  serve(port: number): Promise<void>;
}

let nextGuest = 1;

/** @param name letters and digits, 8 at most: it names the namespace and, with a suffix, the interface */
export async function createGuest(
  libvirt: Pick<Libvirt, "lab" | "virsh">,
  name: string,
  mac: string,
): Promise<LabGuest> {
  const sh = (script: string): Promise<string> => runScript(libvirt.lab, script);
  const inside = (command: string): Promise<string> => sh(`ip netns exec ${name} ${command}`);
  const uuid = `11111111-1111-4111-8111-${String(nextGuest++).padStart(12, "0")}`;
  const client = `/run/${name}.dhcp.pid`;
  const port = `<networkport><uuid>${uuid}</uuid><owner><name>${name}</name><uuid>${uuid}</uuid></owner><mac address='${mac}'/></networkport>`;
  await sh(`
ip netns add ${name}
ip link add ${name}-tap type veth peer name eth0 netns ${name} address ${mac}
ip -n ${name} link set lo up
ip -n ${name} link set eth0 up
`);
  return {
    name,
    mac,
    powerOn: async () => {
      await sh(`echo "${port}" > /run/${name}.xml`);
      await libvirt.virsh(`net-port-create default /run/${name}.xml`);
      await sh(`ip link set ${name}-tap master virbr0 up`);
    },
    powerOff: async () => {
      await sh(`ip link set ${name}-tap nomaster down`);
      await libvirt.virsh(`net-port-delete default ${uuid}`);
    },
    takeLease: async (wanted) => {
      const request = wanted === undefined ? "" : `-r ${wanted}`;
      // It goes to the background once it has a lease, and releases it when it is ended.
      await inside(
        `udhcpc -i eth0 -n -R -t 20 -T 1 -A 1 -s ${DHCP_SCRIPT} -p ${client} ${request} >/dev/null 2>&1`,
      );
      return (await inside(`ip -4 -brief address show dev eth0`)).replace(/^.*?([\d.]+)\/.*$/s, "$1");
    },
    releaseLease: async () => {
      await sh(`kill $(cat ${client})`);
      await until(
        "the DHCP client has ended",
        async () => (await sh(`cat ${client} || true`)) === "",
        SOON_MS,
      );
    },
    serve: async (tcpPort) => {
      // $ is escaped for the shell that starts socat, not for the one that socat starts.
      const greeting = `SYSTEM:"echo ${name} at \\$SOCAT_SOCKADDR sees \\$SOCAT_PEERADDR"`;
      await sh(
        `setsid ip netns exec ${name} socat TCP-LISTEN:${tcpPort},fork,reuseaddr ${greeting} </dev/null >/dev/null 2>&1 &`,
      );
      const listening = async (): Promise<boolean> =>
        (await inside(`ss -Htln sport = :${tcpPort}`)).trim() !== "";
      await until(`${name} listens on ${tcpPort}`, listening, SOON_MS);
    },
  };
}

async function runScript(lab: Lab, script: string): Promise<string> {
  return (await lab.exec(["sh", "-ec", script])).stdout.trim();
}

/** Libvirt, a client and kvmnatd, all in one lab. */
export interface Stage {
  readonly libvirt: Libvirt;
  startDaemon(): Promise<void>;
  stopDaemon(): Promise<void>;
  /** What the daemon has logged so far. */
  log(): readonly LogLine[];
  /** Runs `kvmnatd COMMAND -c CONFIG`, whatever its exit code. */
  kvmnatd(...command: readonly string[]): Promise<ExecResult>;
  /** `kvmnatd status --json` */
  status(): Promise<DaemonStatus>;
  /** Waits until every forward is in this state, in the daemon's own words. */
  becomes(state: string): Promise<void>;
  /** Returns after a whole pass: the status then tells of everything that happened before. */
  reload(): Promise<void>;
  /** Returns when the daemon has seen everything that happened before, and has no pass pending. */
  rests(): Promise<void>;
  /** The rules of both families that are not kvmnatd's, without counters. */
  foreignRules(): Promise<string>;
  dump(): Promise<void>;
  close(): Promise<void>;
}

export interface StageOptions {
  /** Takes the tree's libvirt, with this backend; this machine's own may be too old to know of any. */
  readonly backend?: Backend;
}

/** @param config what the daemon's config file says */
export async function createStage(config: string, options: StageOptions = {}): Promise<Stage> {
  const lab = await createLab();
  const sh = (script: string): Promise<string> => runScript(lab, script);
  const libvirt = await createLibvirt(lab, options.backend).catch(async (error: unknown) => {
    await lab.close();
    throw error;
  });
  const given = ["-c", await writeConfig(lab, config)];
  const daemons: Daemon[] = [];
  const log = (): readonly LogLine[] => daemons.flatMap((daemon) => daemon.log());
  const kvmnatd = (...command: readonly string[]): Promise<ExecResult> => lab.kvmnatd([...command, ...given]);
  const status = async (): Promise<DaemonStatus> =>
    JSON.parse((await kvmnatd("status", "--json")).stdout) as DaemonStatus;
  const stopDaemon = async (): Promise<void> => void (await daemons.at(-1)?.stop());
  return {
    libvirt,
    log,
    kvmnatd,
    status,
    stopDaemon,
    startDaemon: async () => {
      daemons.push(await startDaemon(lab, given));
    },
    becomes: (state) =>
      untilStatus(
        `every forward is ${state}`,
        lab,
        ({ forwards }: DaemonStatus) =>
          forwards.length > 0 && forwards.every((forward) => forward.state === state),
        SOON_MS,
      ),
    reload: () => reload(lab),
    rests: () => settle(lab, REST_MS),
    foreignRules: () =>
      sh("{ iptables-save; ip6tables-save; } | grep -v -e '^#' -e KVMNATD- | sed 's/ \\[[0-9:]*\\]$//'"),
    dump: async () => {
      const files = await sh(
        `iptables-save; nft list ruleset; ls -l ${DNSMASQ_FOLDER}; cat ${DNSMASQ_FOLDER}/virbr0.* 2>/dev/null || true`,
      );
      const lines = log().map((line) => JSON.stringify(line));
      process.stderr.write(`${[...lines, files].join("\n")}\n`);
    },
    close: async () => {
      await stopDaemon();
      await lab.close();
    },
  };
}
