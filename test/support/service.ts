import { copyFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { bootHost } from "./booted.ts";
import type { BootedHost } from "./booted.ts";
import { until } from "./lab.ts";
import { CLIENT, createGuest, dial, HOST_ADDRESS, NOTHING, PREPARE, SMOOTH } from "./libvirt.ts";
import type { LabGuest } from "./libvirt.ts";
import { packageFile } from "./packages.ts";

const CONFIG = "/etc/kvmnatd.yaml";
export const GUEST_MAC = "52:54:00:6c:3c:01";

/** A KVM host with systemd, libvirt and kvmnatd as an admin installs it, and a LAN client; no Node.js anywhere. */
export interface ServiceHost extends BootedHost {
  /** libvirtd and its network `default`. */
  startLibvirt(): Promise<void>;
  virsh(command: string): Promise<string>;
  /** Plugged in, with a lease, greeting on port 22 and echoing on port 7. */
  plugGuest(name: string, mac: string): Promise<LabGuest>;
  /** Saves the config as an editor does. */
  configure(text: string): Promise<void>;
  systemctl(...words: readonly string[]): Promise<{ readonly exitCode: number; readonly said: string }>;
  /** A property of the service. */
  show(property: string): Promise<string>;
  /** Entries of the service's journal, `FIELD=value` narrows. */
  journal(...matches: readonly string[]): Promise<readonly JournalEntry[]>;
  dial(port: number): Promise<string>;
  /** Waits until the port leads to the guest. */
  reaches(port: number, guest: string): Promise<void>;
  isRefused(port: number): Promise<void>;
  /** A connection through the port to the guest's port 7 that stays open. */
  openSession(port: number): Promise<Session>;
}

interface Session {
  /** What comes back over it. @throws when nothing does */
  say(text: string): Promise<string>;
}

type JournalEntry = Readonly<Record<string, string>>;

/** @param root of the Debian that is booted */
export async function createServiceHost(root = "/"): Promise<ServiceHost> {
  const host = await bootHost(root);
  const sh = (script: string): Promise<string> => host.sh(script);
  const virsh = (command: string): Promise<string> => sh(`virsh -q ${command}`);
  const prepare = async (): Promise<void> => void (await sh(PREPARE + CLIENT));
  if (root !== "/") await host.exec(["sh", "-ec", SMOOTH, "sh", ""]);
  await prepare();
  return {
    ...host,
    get enter() {
      return host.enter;
    },
    get root() {
      return host.root;
    },
    reboot: async () => {
      await host.reboot();
      await prepare();
    },
    startLibvirt: async () => {
      await sh("systemctl start libvirtd");
      await until("libvirtd has loaded its networks", async () => {
        const { exitCode } = await host.exec(["virsh", "-q", "net-info", "default"], { check: false });
        return exitCode === 0;
      });
      await virsh("net-start default");
    },
    virsh,
    plugGuest: async (name, mac) => {
      const guest = await createGuest({ lab: host, virsh }, name, mac);
      await guest.powerOn();
      await guest.takeLease();
      await guest.serve(22);
      const echo = `socat TCP-LISTEN:7,fork,reuseaddr EXEC:cat`;
      await sh(`setsid ip netns exec ${name} ${echo} </dev/null >/dev/null 2>&1 &`);
      return guest;
    },
    configure: async (text) => {
      await writeFile(join(host.dir, "kvmnatd.yaml"), text);
      await sh(`install -m 644 ${host.dir}/kvmnatd.yaml ${CONFIG}.new && mv ${CONFIG}.new ${CONFIG}`);
    },
    systemctl: async (...words) => {
      const { exitCode, stdout, stderr } = await host.exec(["systemctl", ...words], {
        check: false,
        timeoutMs: 180_000,
      });
      return { exitCode, said: stdout + stderr };
    },
    show: (property) => sh(`systemctl show --value --property ${property} kvmnatd`),
    journal: async (...matches) => {
      const text = await sh(
        `journalctl --unit kvmnatd --output json --no-pager ${matches.map((each) => `'${each}'`).join(" ")}`,
      );
      return text === "" ? [] : text.split("\n").map((line) => JSON.parse(line) as JournalEntry);
    },
    dial: (port) => dial(host, port),
    reaches: async (port, guest) => {
      await until(`port ${port} leads to ${guest}`, async () =>
        (await dial(host, port)).startsWith(`${guest} at `),
      );
    },
    openSession: async (port) => {
      const client = host.spawn(["socat", "-", `TCP4:${HOST_ADDRESS}:${port}`], { netns: "client" });
      const say = async (text: string): Promise<string> => {
        client.stdin.write(`${text}\n`);
        return client.waitForLine(new RegExp(`^${text}$`));
      };
      await say("hello");
      return { say };
    },
    isRefused: async (port) => {
      await until(`port ${port} leads nowhere`, async () => (await dial(host, port)) === NOTHING);
    },
  };
}

/**
 * Installs the package, as an admin does, on a host without Node.js and without a network; the service is not started.
 * @param which the version of this checkout, or one before it
 */
export async function install(host: BootedHost, which: "before" | "now" = "now"): Promise<void> {
  const file = await packageFile(which, ".deb");
  const target = join(host.dir, basename(file));
  await copyFile(file, target);
  const command = ["apt-get", "install", "-y", "-q", target];
  await host.exec(["sh", "-c", "rm -f /usr/bin/node /usr/local/bin/node"]);
  await host.exec(command, { timeoutMs: 180_000, env: { DEBIAN_FRONTEND: "noninteractive" } });
}
