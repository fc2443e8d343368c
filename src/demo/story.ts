import { createStyle } from "../cli/style.ts";
import type { DaemonStatus } from "../status/status.ts";
import { EXIT, KvmnatdError } from "../errors.ts";
import { runCommand } from "../host/exec/run-command.ts";
import {
  runClient,
  buildLab,
  connect,
  HOST_ADDRESS,
  startDaemon,
  startDhcp,
  startDomain,
  startServer,
} from "./lab.ts";
import type { DemoLab } from "./lab.ts";

const CONFIG = `guests:
  devstack:            # the name of a libvirt domain
    ports:
      - 1122:22        # host port 1122 -> guest port 22
      - 1180:80
`;

const DEADLINE_MS = 6000;
const POLL_MS = 25;
/** Another address than the one that dnsmasq would choose. */
const SECOND_ADDRESS = "192.168.122.57";

/** The demo's inner half: builds the world and plays the story. Throws when a step did not work. */
export async function playStory({ selfCommand, color, write }: DemoOptions): Promise<number> {
  const style = createStyle(color);
  const say = (text: string): void => write(`${style("bold", style("cyan", text))}\n`);
  const show = (text: string): void => write(text.trimEnd().replace(/^/gm, "    ") + "\n");
  const status = async (): Promise<DaemonStatus> =>
    JSON.parse(await runClient(selfCommand, world, "status --json")) as DaemonStatus;

  say("A host with a libvirt-like network, a guest and a client, in a network namespace of their own.");
  show(`client 198.51.100.2 --- ${HOST_ADDRESS} host 192.168.122.1 (virbr0) --- guest devstack (DHCP)`);
  const world = await buildLab(CONFIG);
  const before = await foreignRules();
  show(
    `A real dnsmasq gives leases; ${world.libvirtHelper ? "libvirt's own helper" : "a script"} writes virbr0.status.`,
  );
  say("\nThe port map:");
  show(CONFIG);

  say("\n1. kvmnatd starts. The guest is off, and nobody answers:");
  await writeEmptyLeases(world);
  const daemon = startDaemon(selfCommand, world, (message) => write(`    ${style("dim", message)}\n`));
  const pending = await until("the daemon says that devstack is pending", status, (now) =>
    now.forwards?.some((forward) => forward.state === "pending"),
  );
  show(`client -> ${HOST_ADDRESS}:1122: ${await expectRefused(1122)}`);
  show(`kvmnatd status says why: ${pending.forwards[0]?.why}`);

  say("\n2. The guest boots and asks for an address:");
  startServer();
  await startDomain(world, "devstack");
  const dhcp = await startDhcp("devstack");
  const first = await until("devstack's forwards are active", status, allActive);
  const address = first.forwards[0]?.address ?? "";
  for (const port of [1122, 1180])
    show(`client -> ${HOST_ADDRESS}:${port}: ${await expectAnswer(port, address)}`);

  say("\n3. The guest gives its lease back and takes another address:");
  dhcp.kill("SIGTERM");
  await new Promise((resolve) => dhcp.once("exit", resolve));
  await startDhcp("devstack", SECOND_ADDRESS);
  await until(
    "the forwards have followed",
    status,
    (now) => allActive(now) && now.forwards[0]?.address !== address,
  );
  for (const port of [1122, 1180])
    show(`client -> ${HOST_ADDRESS}:${port}: ${await expectAnswer(port, SECOND_ADDRESS)}`);

  say("\n4. Somebody flushes the chain; kvmnatd puts it right:");
  await runCommand(["iptables", "-t", "nat", "-F", "KVMNATD-DNAT"]);
  // Where nft can tell of the change (package nftables) this is not even needed.
  daemon.kill("SIGHUP");
  await until(
    "the rules are back",
    () => rules("nat"),
    (text) => text.includes("--dport 1180"),
  );
  show(`client -> ${HOST_ADDRESS}:1122: ${await expectAnswer(1122, SECOND_ADDRESS)}`);

  say("\n5. kvmnatd status:");
  show(await runClient(selfCommand, world, "status"));

  say("\n6. The daemon stops (its rules would stay), and teardown removes all that is kvmnatd's:");
  daemon.kill("SIGTERM");
  await new Promise((resolve) => daemon.once("close", resolve));
  show(await runClient(selfCommand, world, "teardown"));
  if ((await foreignRules()) !== before) throw failure("rules are left over after teardown");
  show("iptables-save is what it was before kvmnatd came.");
  say("\nThat was the demo: every connection was real. Nothing of it is left on this machine.");
  return EXIT.ok;
}

/** libvirt leaves an empty file when a network starts. */
async function writeEmptyLeases(world: DemoLab): Promise<void> {
  await runCommand(["touch", `${world.dnsmasqDir}/virbr0.status`]);
}

function allActive(now: DaemonStatus): boolean {
  return now.forwards?.length === 2 && now.forwards.every((forward) => forward.state === "active");
}

async function expectAnswer(port: number, address: string): Promise<string> {
  const answer = await connect(port);
  if (!answer.includes(`at ${address};`))
    throw failure(`port ${port} answered "${answer}", not from ${address}`);
  return answer;
}

async function expectRefused(port: number): Promise<string> {
  const answer = await connect(port);
  if (!answer.startsWith("FAILED"))
    throw failure(`port ${port} answered "${answer}", but nobody should have`);
  return answer.replace("FAILED ", "");
}

async function rules(table: "nat" | "filter"): Promise<string> {
  return (await runCommand(["iptables-save", "-t", table])).stdout;
}

/** Every rule in the namespace; iptables' date and the empty chains that it makes at first use left out. */
async function foreignRules(): Promise<string> {
  const { stdout } = await runCommand(["iptables-save"]);
  return stdout
    .split("\n")
    .filter((line) => line.startsWith("-A") || line.includes("KVMNATD"))
    .join("\n");
}

async function until<T>(
  what: string,
  read: () => Promise<T>,
  isDone: (value: T) => boolean | undefined,
): Promise<T> {
  const endsAt = Date.now() + DEADLINE_MS;
  for (;;) {
    const value = await read();
    if (isDone(value) === true) return value;
    if (Date.now() > endsAt)
      throw failure(`${what}: not within ${DEADLINE_MS / 1000} s; last: ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function failure(message: string): KvmnatdError {
  return new KvmnatdError("demo", `the demo failed: ${message}`);
}

export interface DemoOptions {
  /** How to run this program again: executable and script. */
  readonly selfCommand: readonly string[];
  readonly color: boolean;
  readonly write: (text: string) => void;
  readonly signal: AbortSignal;
}
