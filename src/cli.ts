import { Command, CommanderError } from "commander";
import type { Option } from "commander";
import type { CommandSpec } from "./completion.ts";
import { EXIT } from "./errors.ts";
import { VERSION } from "./version.ts";
import { DEFAULT_CONFIG, DEFAULT_DNSMASQ_DIR } from "./wire.ts";

type CommandName =
  "run" | "check" | "plan" | "apply" | "status" | "leases" | "teardown" | "demo" | "schema" | "completion";

/** What the command line asks for. */
export interface Invocation {
  readonly command: CommandName;
  readonly config: string;
  readonly dnsmasqDir: string;
  readonly json: boolean;
  /** Of `completion`. */
  readonly shell: "bash" | "zsh" | "fish";
}

/** Nothing to run: help, the version or a usage error was printed. */
export interface Printed {
  readonly exitCode: number;
}

interface Text {
  readonly name: CommandName;
  readonly summary: string;
  readonly exits: string;
  readonly json?: true;
}

const COMMANDS: readonly Text[] = [
  {
    name: "run",
    summary: "the daemon; what systemd starts",
    exits: "0 on SIGTERM or SIGINT, 1 failed, 78 bad config",
  },
  {
    name: "check",
    summary: "validate the config and show every fault with its place",
    exits: "0 valid, 78 invalid",
  },
  {
    name: "plan",
    summary: "show the difference between the kernel and what should be; changes nothing",
    exits: "0 no change, 2 changes, 1 failed, 78 bad config",
    json: true,
  },
  { name: "apply", summary: "make one pass, then exit", exits: "0, 1 failed, 78 bad config" },
  {
    name: "status",
    summary: "show every forward, where it leads, and why not where it does not",
    exits: "0 all active, 3 some pending or degraded, 4 the daemon does not run",
    json: true,
  },
  { name: "leases", summary: "show what is known of each guest", exits: "0", json: true },
  {
    name: "teardown",
    summary: "remove every rule, chain and jump of kvmnatd, and nothing else",
    exits: "0, 1 failed",
  },
  {
    name: "demo",
    summary: "play a forward following a lease, in a network namespace of its own",
    exits: "0, 1 failed",
  },
  { name: "schema", summary: "print the config's JSON Schema", exits: "0" },
  { name: "completion", summary: "print a shell's completion script", exits: "0" },
];

const SHELLS = ["bash", "zsh", "fish"] as const;

/** Reads the arguments after the program's name. Help, version and usage errors are printed here. */
export function parseArguments(argv: readonly string[]): Invocation | Printed {
  let invocation: Invocation | undefined;
  const program = createProgram((found) => {
    invocation = found;
  });
  try {
    program.parse(argv, { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) return { exitCode: error.exitCode === 0 ? EXIT.ok : EXIT.usage };
    throw error;
  }
  if (invocation !== undefined) return invocation;
  program.outputHelp({ error: true });
  return { exitCode: EXIT.usage };
}

function createProgram(onCommand: (invocation: Invocation) => void): Command {
  const program = new Command("kvmnatd")
    .description("Publishes ports of KVM guests on libvirt's NAT networks and keeps the iptables rules true.")
    .version(VERSION, "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand("help [command]", "print the help of a command")
    .exitOverride()
    .showHelpAfterError("(`kvmnatd --help` shows all commands and options)")
    .addHelpText("after", HELP);
  for (const text of COMMANDS) program.addCommand(createCommand(text, onCommand));
  return program;
}

function createCommand(
  { name, summary, exits, json }: Text,
  onCommand: (found: Invocation) => void,
): Command {
  const command = new Command(name)
    .description(summary)
    .exitOverride()
    .helpOption("-h, --help", "print this help")
    .option("-c, --config <file>", "the port map", DEFAULT_CONFIG)
    .option("--dnsmasq-dir <dir>", "libvirt's lease files", DEFAULT_DNSMASQ_DIR)
    .addHelpText("after", `\nExit status: ${exits}; 64 wrong usage.`);
  if (json === true) command.option("--json", "print JSON instead of text");
  const shell = command.createArgument("<shell>").choices([...SHELLS]);
  if (name === "completion") command.addArgument(shell);
  return command.action((...given: readonly unknown[]) => {
    const {
      config,
      dnsmasqDir,
      json: asJson = false,
    } = command.opts<{ config: string; dnsmasqDir: string; json?: boolean }>();
    const chosen = SHELLS.find((each) => each === given[0]) ?? "bash";
    onCommand({ command: name, config, dnsmasqDir, json: asJson, shell: chosen });
  });
}

/** The commands and options as a completion script needs them; from the same source as the help. */
export function describeCommands(): readonly CommandSpec[] {
  const program = createProgram(() => undefined);
  return program.commands.map((command) => ({
    name: command.name(),
    summary: command.description(),
    options: command.options.map((option: Option) => ({
      flags: option.flags,
      description: option.description,
    })),
    ...(command.name() === "completion" ? { choices: [...SHELLS] } : {}),
  }));
}

const HELP = `
Typical use:
  systemctl enable --now kvmnatd      start the daemon, now and at boot
  $EDITOR ${DEFAULT_CONFIG}           saved changes apply at once; a bad file changes nothing
  journalctl -u kvmnatd               every rule that was added or removed, and why
  kvmnatd status                      what is forwarded where, and why not

Environment:
  RUNTIME_DIRECTORY   where status.json is kept (systemd sets it; default /run/kvmnatd)
  NO_COLOR            no colour, whatever it is set to

Signals of the daemon: SIGHUP looks at everything anew; SIGTERM and SIGINT end it (rules: see on_stop).`;
