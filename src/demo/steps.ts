import type { ChildProcess } from "node:child_process";
import { runCommand } from "../host/exec/run-command.ts";
import type { DaemonStatus } from "../status/status.ts";
import type { Check } from "./check.ts";
import { connect, HOST_ADDRESS, runClient, startDaemon, startDhcp, startDomain, startServer } from "./lab.ts";
import type { DemoLab } from "./lab.ts";

/** One step of the story. */
export interface Step {
  readonly title: string;
  /** Changes the lab. */
  readonly act: () => Promise<void>;
  /** What kvmnatd must have made of it. */
  readonly expect: readonly Check[];
}

/** Where the story is played, and how its commands are run. */
export interface Stage {
  readonly lab: DemoLab;
  /** The executable and script of this program. */
  readonly selfCommand: readonly string[];
  /** Shows text to the spectator. */
  readonly show: (text: string) => void;
  /** Shows a line of the daemon's log. */
  readonly onMessage: (message: string) => void;
}

/** dnsmasq would choose another address. */
const SECOND_ADDRESS = "192.168.122.57";

/** The stage, and what the steps share. */
interface Play extends Stage {
  readonly run: (command: string) => Promise<string>;
  readonly processes: Map<"daemon" | "dhcp", ChildProcess>;
}

/** @param before the rules before kvmnatd started */
export function createSteps(stage: Stage, before: string): readonly Step[] {
  const run = (command: string): Promise<string> => runClient(stage.selfCommand, stage.lab, command);
  const play: Play = { ...stage, run, processes: new Map() };
  return [...followGuest(play), ...keepRules(play, before)];
}

function followGuest({ lab, selfCommand, onMessage, run, processes }: Play): readonly Step[] {
  return [
    {
      title: "kvmnatd starts. The guest is off, and no guest answers:",
      act: async () => {
        // libvirt leaves an empty file when a network starts.
        await runCommand(["touch", `${lab.dnsmasqDir}/virbr0.status`]);
        processes.set("daemon", startDaemon(selfCommand, lab, onMessage));
      },
      expect: [
        {
          ...expectStatus("pending", run),
          describe: (found) => `kvmnatd status reports why: ${found.split("\n")[0]}`,
        },
        expectRefused(1122),
      ],
    },
    {
      title: "The guest boots and requests an address:",
      act: async () => {
        startServer();
        await startDomain(lab, "devstack");
        processes.set("dhcp", await startDhcp("devstack"));
      },
      expect: [expectStatus("active", run), ...expectAnswers("192.168.122.")],
    },
    {
      title: "The guest gives its lease back and takes another address:",
      act: async () => {
        await stop(processes.get("dhcp"), "exit");
        await startDhcp("devstack", SECOND_ADDRESS);
      },
      expect: [expectStatus(`active ${SECOND_ADDRESS}`, run), ...expectAnswers(SECOND_ADDRESS)],
    },
  ];
}

function keepRules({ show, run, processes }: Play, before: string): readonly Step[] {
  return [
    {
      title: "Another program flushes the chain; kvmnatd puts the rules back:",
      act: async () => {
        await runCommand(["iptables", "-t", "nat", "-F", "KVMNATD-DNAT"]);
        // Not even needed where `nft monitor` (package nftables) reports the change.
        processes.get("daemon")?.kill("SIGHUP");
      },
      expect: [expectAnswer(1122, SECOND_ADDRESS)],
    },
    { title: "kvmnatd status:", act: async () => show(await run("status")), expect: [] },
    {
      title: "The daemon stops (its rules would stay), and teardown removes everything of kvmnatd:",
      act: async () => {
        await stop(processes.get("daemon"), "close");
        show(await run("teardown"));
      },
      expect: [
        {
          expected: `only the rules from before kvmnatd (${before || "none"})`,
          read: readRules,
          isMet: (found) => found === before,
          describe: () => "iptables-save is what it was before kvmnatd started.",
        },
      ],
    },
  ];
}

async function stop(child: ChildProcess | undefined, event: "exit" | "close"): Promise<void> {
  const ended = new Promise((resolve) => child?.once(event, resolve));
  child?.kill("SIGTERM");
  await ended;
}

/** Waits for a state of both forwards; each line of the status is `STATE ADDRESS: WHY`. */
function expectStatus(state: string, run: (command: string) => Promise<string>): Check {
  return {
    expected: `both forwards of devstack to be ${state}`,
    read: async () => {
      const { forwards } = JSON.parse(await run("status --json")) as Partial<DaemonStatus>;
      return (forwards ?? [])
        .map((each) => `${each.state} ${each.address ?? "-"}: ${each.why ?? ""}`)
        .join("\n");
    },
    isMet: (found) =>
      found.split("\n").length === 2 && found.split("\n").every((line) => line.startsWith(state)),
    describe: () => "",
  };
}

function expectAnswers(address: string): readonly Check[] {
  return [1122, 1180].map((port) => expectAnswer(port, address));
}

function expectAnswer(port: number, address: string): Check {
  return {
    expected: `an answer of the guest at ${address} on port ${port}`,
    read: () => connect(port),
    isMet: (found) => found.includes(`at ${address}`),
    describe: (found) => `client -> ${HOST_ADDRESS}:${port}: ${found}`,
  };
}

function expectRefused(port: number): Check {
  return {
    expected: `no answer on port ${port}`,
    read: () => connect(port),
    isMet: (found) => found.startsWith("FAILED"),
    describe: (found) => `client -> ${HOST_ADDRESS}:${port}: ${found.replace("FAILED ", "")}`,
  };
}

/** Every rule in the namespace, without iptables' date and the empty chains that it creates at its first use. */
export async function readRules(): Promise<string> {
  const { stdout } = await runCommand(["iptables-save"]);
  return stdout
    .split("\n")
    .filter((line) => line.startsWith("-A") || line.includes("KVMNATD"))
    .join("\n");
}
