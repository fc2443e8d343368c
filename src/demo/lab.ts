import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { access, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { errnoOf, KvmnatdError } from "../errors.ts";
import { runCommand } from "../host/exec/run-command.ts";

const BRIDGE = "virbr0";
const GUEST_MAC = "52:54:00:6c:3c:01";
export const HOST_ADDRESS = "198.51.100.1";
const CLIENT_ADDRESS = "198.51.100.2";
/** On the private /run: gone with the demo. */
const SCRATCH = "/run/kvmnatd-demo";
/** libvirt's helper writes here and nowhere else. */
const LIBVIRT_DIR = "/var/lib/libvirt";
const HELPERS = ["/usr/lib/libvirt/libvirt_leaseshelper", "/usr/libexec/libvirt_leaseshelper"];

/** The little host that the demo runs on. */
export interface DemoLab {
  readonly dnsmasqDir: string;
  readonly runtimeDir: string;
  readonly config: string;
  /** Whether libvirt's own program writes the lease file. */
  readonly libvirtHelper: boolean;
}

/**
 *   client 198.51.100.2 ---- 198.51.100.1 host 192.168.122.1 (virbr0) ---- guest (DHCP)
 */
export async function buildLab(config: string): Promise<DemoLab> {
  await runCommand(["mount", "-t", "tmpfs", "tmpfs", "/run"]);
  await mkdir(`${SCRATCH}/run`, { recursive: true });
  await mkdir("/run/netns", { recursive: true });
  const helper = await findHelper();
  const dnsmasqDir = helper === undefined ? `${SCRATCH}/dnsmasq` : `${LIBVIRT_DIR}/dnsmasq`;
  if (helper !== undefined) await runCommand(["mount", "-t", "tmpfs", "tmpfs", LIBVIRT_DIR]);
  await mkdir(dnsmasqDir, { recursive: true });
  await writeFile(`${SCRATCH}/kvmnatd.yaml`, config, { mode: 0o600 });
  await buildNetwork();
  startDnsmasq(helper ?? (await writeLeaseScript(dnsmasqDir)), dnsmasqDir);
  return {
    dnsmasqDir,
    runtimeDir: `${SCRATCH}/run`,
    config: `${SCRATCH}/kvmnatd.yaml`,
    libvirtHelper: helper !== undefined,
  };
}

async function findHelper(): Promise<string | undefined> {
  for (const file of HELPERS) {
    try {
      await access(file);
      return file;
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
    }
  }
  return undefined;
}

async function buildNetwork(): Promise<void> {
  const steps = [
    "link set lo up",
    "netns add guest",
    "netns add client",
    `link add ${BRIDGE} type bridge stp_state 0 forward_delay 0`,
    `address add 192.168.122.1/24 dev ${BRIDGE}`,
    `link set ${BRIDGE} up`,
    `link add vnet0 type veth peer name eth0 address ${GUEST_MAC} netns guest`,
    `link set vnet0 master ${BRIDGE} up`,
    "-n guest link set lo up",
    "link add lan0 type veth peer name eth0 netns client",
    `address add ${HOST_ADDRESS}/24 dev lan0`,
    "link set lan0 up",
    `-n client address add ${CLIENT_ADDRESS}/24 dev eth0`,
    "-n client link set eth0 up",
    `-n client route add default via ${HOST_ADDRESS}`,
  ];
  for (const step of steps) await runCommand(["ip", ...step.split(" ")]);
}

/** dnsmasq as libvirt starts it, but that it offers an address without first asking for 3 s whether it is in use. */
function startDnsmasq(script: string, dnsmasqDir: string): void {
  const options = [
    "--keep-in-foreground",
    "--conf-file=/dev/null",
    `--pid-file=${SCRATCH}/dnsmasq.pid`,
    "--user=root",
    "--port=0",
    "--bind-interfaces",
    `--interface=${BRIDGE}`,
    "--dhcp-range=192.168.122.2,192.168.122.254,3600",
    "--dhcp-authoritative",
    "--no-ping",
    "--leasefile-ro",
    `--dhcp-script=${script}`,
  ];
  start(["dnsmasq", ...options], { VIR_BRIDGE_NAME: BRIDGE, KVMNATD_DEMO_DIR: dnsmasqDir });
}

/** dnsmasq's dhcp-script where libvirt is not installed: keeps a lease file of libvirt's form. */
async function writeLeaseScript(dnsmasqDir: string): Promise<string> {
  const file = join(SCRATCH, "lease-script");
  const script = `#!/bin/sh
# ACTION MAC ADDRESS HOSTNAME
cd '${dnsmasqDir}' && mkdir -p rows || exit 1
case $1 in
  add | old) printf '{ "ip-address": "%s", "mac-address": "%s", "hostname": "%s", "expiry-time": %s }' \\
    "$3" "$2" "$4" "$DNSMASQ_LEASE_EXPIRES" >"rows/$3" ;;
  del) rm -f "rows/$3" ;;
  *) exit 0 ;;
esac
{ echo '['; sep=; for row in rows/*; do [ -e "$row" ] || continue; printf '%s' "$sep"; cat "$row"; sep=,; done; echo ']'; } \\
  >${BRIDGE}.status.new
mv ${BRIDGE}.status.new ${BRIDGE}.status
`;
  await writeFile(file, script, { mode: 0o755 });
  return file;
}

/** What libvirtd writes when the domain starts. */
export async function startDomain(world: DemoLab, domain: string): Promise<void> {
  const rows = JSON.stringify([{ domain, macs: [GUEST_MAC] }]);
  await writeFile(join(world.dnsmasqDir, `${BRIDGE}.macs`), `${rows}\n`);
}

const DHCP_SCRIPT = `#!/bin/sh
case $1 in
  deconfig) ip address flush dev "$interface"; ip link set "$interface" up ;;
  bound | renew)
    ip address flush dev "$interface"
    ip address add "$ip/$mask" dev "$interface"
    ip route replace default via "$router" ;;
esac
`;

/** The guest's DHCP client. It gives its lease back when it is stopped with SIGTERM. */
export async function startDhcp(hostname: string, address?: string): Promise<ChildProcess> {
  const script = join(SCRATCH, "dhcp-script");
  await writeFile(script, DHCP_SCRIPT, { mode: 0o755 });
  const wish = address === undefined ? [] : ["-r", address];
  const client = [
    "udhcpc",
    "-f",
    "-R",
    "-t",
    "20",
    "-T",
    "1",
    "-i",
    "eth0",
    "-s",
    script,
    "-x",
    `hostname:${hostname}`,
  ];
  return start(["ip", "netns", "exec", "guest", ...client, ...wish]);
}

const SERVER = `
for (const port of [22, 80]) require("node:net").createServer((socket) => {
  const from = (address) => address.replace("::ffff:", "");
  socket.on("error", () => {});
  socket.end("devstack, port " + port + ", at " + from(socket.localAddress) + "; you are " + from(socket.remoteAddress));
}).listen(port);`;

/** Something in the guest that says who it is, on ports 22 and 80. */
export function startServer(): ChildProcess {
  return start(["ip", "netns", "exec", "guest", process.execPath, "-e", SERVER]);
}

const CLIENT = `
const socket = require("node:net").connect({ host: process.argv[1], port: Number(process.argv[2]) });
socket.setTimeout(2000, () => socket.destroy(new Error("no answer")));
socket.on("error", (error) => console.log("FAILED " + (error.code ?? error.message)));
socket.on("data", (text) => console.log(String(text)));`;

/** A connection from the client's namespace to the host: what the guest answered, or `FAILED ...`. */
export async function connect(port: number): Promise<string> {
  const client = [process.execPath, "-e", CLIENT, HOST_ADDRESS, String(port)];
  const { stdout } = await runCommand(["ip", "netns", "exec", "client", ...client]);
  return stdout.trim();
}

/** A long-lived child. It needs no stopping: it ends with the demo's namespaces. */
function start(argv: readonly string[], env: Readonly<Record<string, string>> = {}): ChildProcess {
  const [file = "", ...args] = argv;
  return spawn(file, args, { stdio: "ignore", env: { ...process.env, ...env } });
}

/** The daemon itself, as systemd would start it. */
export function startDaemon(
  selfCommand: readonly string[],
  world: DemoLab,
  onMessage: (message: string) => void,
): ChildProcess {
  const [file, ...args] = [...selfCommand, "run", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
  const daemon = spawn(file, args, {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, RUNTIME_DIRECTORY: world.runtimeDir },
  });
  createInterface({ input: daemon.stdout }).on("line", (line) =>
    onMessage((JSON.parse(line) as { readonly msg: string }).msg),
  );
  return daemon;
}

/** Runs a command of kvmnatd in the world; a non-zero exit code is part of its answer. */
export async function runClient(
  selfCommand: readonly string[],
  world: DemoLab,
  command: string,
): Promise<string> {
  const options = ["-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
  try {
    const { stdout } = await runCommand([...selfCommand, ...command.split(" "), ...options], {
      env: { RUNTIME_DIRECTORY: world.runtimeDir },
    });
    return stdout;
  } catch (error) {
    if (error instanceof KvmnatdError && error.cause instanceof Error && "stdout" in error.cause)
      return String(error.cause.stdout);
    throw error;
  }
}
