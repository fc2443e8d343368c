import { readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { until } from "./lab.ts";
import type { Lab, LabProcess } from "./lab.ts";
import { HOST_ADDRESS } from "./libvirt.ts";
import type { Libvirt } from "./libvirt.ts";

const MAKE_IMAGE = resolve(import.meta.dirname, "real-guest/make-image.sh");
const PEER = resolve(import.meta.dirname, "peer.ts");
/** Where the guest takes orders; not published. */
const ORDERS_PORT = 8;
/** An emulated processor on a busy machine; it takes 3 s on an idle one. */
const BOOT_MS = 120_000;

/** No other user, no cgroups, no daemon for its log: a lab has none of these. */
const QEMU_CONF = `
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
`;

/** What keeps a boot under emulation short. */
const KERNEL_OPTIONS =
  "console=ttyS0 quiet loglevel=3 reboot=t panic=-1 random.trust_cpu=on nokaslr no_timer_check noreplace-smp " +
  "mitigations=off apparmor=0 audit=0 cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=1 tsc=reliable";

/** A domain that QEMU really boots: kernel, DHCP client, a service on port 7 by TCP and UDP. */
export interface RealGuest {
  /** Defines the domain, or changes it: with this network card. */
  define(mac: string): Promise<void>;
  /** What the guest does by itself; sent to its own address. */
  order(command: "reboot" | "renew", address: string): Promise<void>;
  /** What a client gets at a published port; undefined: nothing. */
  ask(protocol: "tcp" | "udp", port: number): Promise<Greeting | undefined>;
  /** A client's open TCP connection to a published port: what is written into it comes back, a line each. */
  hold(port: number): LabProcess;
  /** Waits until a client gets an answer, from another boot than this one. */
  answers(port: number, notBoot?: string): Promise<Greeting>;
  /** What the guest has written on its console. */
  console(): Promise<string>;
}

/** How the guest answers. */
export interface Greeting {
  readonly name: string;
  /** Another after each boot. */
  readonly boot: string;
  /** The client as the guest sees it. */
  readonly client: string;
}

/** Call it before libvirtd starts. @param libvirt with a tree */
export async function createRealGuest(libvirt: Libvirt, name: string): Promise<RealGuest> {
  const { lab, tree } = libvirt;
  if (tree === undefined) throw new Error("a real guest needs the tree's kernel and QEMU");
  const kernel = join(lab.dir, "vmlinux");
  const image = join(lab.dir, "initrd");
  await lab.exec(["sh", "-ec", "cat > /etc/libvirt/qemu.conf"], { input: QEMU_CONF });
  await lab.exec(["sh", MAKE_IMAGE, tree.root, image]);
  await unpackKernel(lab, tree.root, kernel);
  const consoleFile = join(lab.dir, `${name}.console`);
  const ask = async (protocol: string, port: number): Promise<Greeting | undefined> => {
    const words = [process.execPath, PEER, "ask", protocol, HOST_ADDRESS, `${port}`];
    const answer = (await lab.exec(words, { netns: "client" })).stdout.trim();
    const [greeter, boot, client] = answer.split(" ");
    return greeter === undefined || boot === undefined || client === undefined
      ? undefined
      : { name: greeter, boot, client };
  };
  return {
    ask,
    hold: (port) => lab.spawn([process.execPath, PEER, "hold", HOST_ADDRESS, `${port}`], { netns: "client" }),
    define: async (mac) => {
      const file = join(lab.dir, `${name}.xml`);
      await writeFile(file, domainXml({ name, mac, kernel, image, console: consoleFile }));
      await libvirt.virsh(`define ${file}`);
    },
    order: async (command, address) => {
      await lab.exec(["socat", "-u", "-", `TCP4:${address}:${ORDERS_PORT},connect-timeout=5`], {
        input: `${command}\n`,
      });
    },
    answers: (port, notBoot) =>
      until(
        `${name} answers at ${port}`,
        async () => {
          const greeting = await ask("tcp", port);
          return greeting?.boot !== notBoot && greeting;
        },
        BOOT_MS,
      ),
    console: () => readFile(consoleFile, "utf8"),
  };
}

/** The kernel as it runs: emulated, it would take seconds to unpack itself, at each boot. */
async function unpackKernel(lab: Lab, root: string, file: string): Promise<void> {
  const folder = `${root}/opt/kernel/boot`;
  await lab.exec(["sh", "-ec", `cp ${folder}/vmlinuz-* ${file}`]);
  const image = await readFile(file);
  // Documentation/arch/x86/boot.rst of the kernel: setup_sects, payload_offset, payload_length.
  const start = (image.readUInt8(0x1f1) + 1) * 512 + image.readUInt32LE(0x248);
  // Behind what is packed stands its size.
  const end = start + image.readUInt32LE(0x24c) - 4;
  await writeFile(file, zstdDecompressSync(image.subarray(start, end)));
}

interface Domain {
  readonly name: string;
  readonly mac: string;
  readonly kernel: string;
  readonly image: string;
  readonly console: string;
}

function domainXml({ name, mac, kernel, image, console: log }: Domain): string {
  return `<domain type='qemu'>
  <name>${name}</name>
  <uuid>22222222-2222-4222-8222-222222222222</uuid>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${kernel}</kernel>
    <initrd>${image}</initrd>
    <cmdline>${KERNEL_OPTIONS} guest.name=${name}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='${log}' append='on'/></serial>
    <interface type='network'>
      <mac address='${mac}'/>
      <source network='default'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
  </devices>
</domain>
`;
}
