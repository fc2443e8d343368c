import { Command, CommanderError, Option } from "commander";
import type { CommandSpec } from "./completion.ts";
import { EXIT } from "../errors.ts";
import { VERSION } from "../version.ts";
import type { HistoryOptions } from "./history.ts";
import { DEFAULT_CONFIG, DEFAULT_DNSMASQ_DIR } from "../paths.ts";

/** A command and the options that only it has. */
type Request =
  | { readonly command: PlainCommand }
  | { readonly command: "status"; readonly watch: boolean }
  | { readonly command: "history"; readonly options: HistoryOptions }
  | { readonly command: "schema"; readonly subject: (typeof SUBJECTS)[number] }
  | { readonly command: "completion"; readonly shell: (typeof SHELLS)[number] };

type PlainCommand =
  "run" | "check" | "plan" | "apply" | "reload" | "leases" | "teardown" | "handover" | "demo";

/** A command line that is valid. */
export interface Invocation {
  readonly request: Request;
  readonly config: string;
  readonly dnsmasqDir: string;
  readonly json: boolean;
}

/** Nothing to run: help, the version or a usage error was printed. */
export interface Printed {
  readonly exitCode: number;
}

interface CommandText {
  readonly name: Request["command"];
  readonly summary: string;
  readonly exits: string;
  readonly json?: true;
  /** The common options that the command reads. It accepts them all. */
  readonly reads?: readonly (keyof typeof COMMON)[];
  readonly argument?: { readonly name: string; readonly choices: readonly string[] };
  /** Further options: flags, description, and the options that each excludes. */
  readonly options?: readonly (readonly [flags: string, description: string, excludes?: readonly string[]])[];
  /** The end of the command's help. */
  readonly notes?: string;
}

/** The options as commander returns them. */
type GivenOptions = Pick<Invocation, "config" | "dnsmasqDir"> & {
  readonly json?: boolean;
  readonly watch?: boolean;
} & HistoryOptions;

const COMMON = {
  config: ["-c, --config <file>", "the port map", DEFAULT_CONFIG],
  dnsmasqDir: ["--dnsmasq-dir <dir>", "libvirt's lease files", DEFAULT_DNSMASQ_DIR],
} as const;
const BOTH = ["config", "dnsmasqDir"] as const;

const SHELLS = ["bash", "zsh", "fish"] as const;
const SUBJECTS = ["config", "status"] as const;

const HISTORY_NOTES = `
Times are those of journalctl: "2026-11-23 03:00", 03:00, yesterday, -2h, "2h ago".

--json prints {beginsAt, holdings, events}. A holding: guest, family, protocol, published, listen (null: any address),
target, allow (sources; empty: everyone), from (null: before beginsAt), to (null: now), began and ended
({why, trigger}, or null). An event: at, guest, event, message. Times are ISO 8601 in UTC.
`;

const COMMANDS: readonly CommandText[] = [
  {
    name: "run",
    summary: "the daemon; what systemd starts",
    exits: "0 on SIGTERM or SIGINT, 1 failed, 78 bad config",
    reads: BOTH,
  },
  {
    name: "check",
    summary: "validate the config and show every fault with its place",
    exits: "0 valid, 78 invalid",
    reads: BOTH,
  },
  {
    name: "plan",
    summary: "show the difference between the kernel and what should be; changes nothing",
    exits: "0 no change, 2 changes, 1 failed, 78 bad config",
    reads: BOTH,
    json: true,
  },
  { name: "apply", summary: "make one pass, then exit", exits: "0, 1 failed, 78 bad config", reads: BOTH },
  {
    name: "reload",
    summary: "make the running daemon read everything again, and wait until its rules are in force",
    exits: "0 in force, 1 failed, 4 the daemon does not run, 78 bad config",
  },
  {
    name: "status",
    summary: "show every forward, where it leads, and why not where it does not",
    exits:
      "0 all active, 3 some pending or degraded, or there is an error, 4 the daemon does not run, 1 failed",
    json: true,
    options: [["--watch", "keep showing it, live; q quits", ["json"]]],
  },
  {
    name: "leases",
    summary: "show what is known of each guest",
    exits: "0",
    json: true,
    reads: ["dnsmasqDir"],
  },
  {
    name: "history",
    summary: "show which guest had which port when, from the journal",
    exits: "0, 1 the journal cannot be read",
    json: true,
    options: [
      ["--guest <name>", "only this guest"],
      ["--port <port>", "only this published port; 53/udp names the protocol too"],
      ["--since <time>", "what was from then on"],
      ["--until <time>", "what was up to then"],
      ["--at <time>", "who had it at that time", ["since", "until"]],
      ["--journal-dir <dir>", "another host's journal, as journalctl -D takes it"],
    ],
    notes: HISTORY_NOTES,
  },
  {
    name: "teardown",
    summary: "remove every rule, chain and jump of kvmnatd, and nothing else",
    exits: "0, 1 failed",
  },
  {
    name: "handover",
    summary: "before an upgrade: the running daemon leaves its rules when it stops, whatever on_stop says",
    exits: "0, 4 the daemon does not run",
  },
  {
    name: "demo",
    summary: "play a forward following a lease, in a network namespace of its own",
    exits: "0, 1 failed",
  },
  {
    name: "schema",
    summary:
      "print the JSON Schema of the config (`config`, or nothing), or of what `status --json` prints (`status`)",
    exits: "0",
    argument: { name: "[subject]", choices: SUBJECTS },
  },
  {
    name: "completion",
    summary: "print the completion script of bash, zsh or fish",
    exits: "0",
    argument: { name: "<shell>", choices: SHELLS },
  },
];

/** Parses the arguments after the program's name. Prints help, the version and usage errors. */
export function parseArguments(argv: readonly string[]): Invocation | Printed {
  let invocation: Invocation | undefined;
  const program = createProgram((found) => {
    invocation = found;
  });
  try {
    const [word = ""] = argv;
    const isKnown = /^(-|help$|$)/.test(word) || COMMANDS.some(({ name }) => name === word);
    if (/^(-c|--config|--dnsmasq-dir|--json)(=|$)/.test(word))
      program.error("error: options come after the command: `kvmnatd check -c FILE`");
    // After an unknown command, `--help` would print the general help with exit status 0.
    program.parse(isKnown ? argv : [word], { from: "user" });
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
  { name, summary, exits, json, reads = [], argument, options = [], notes = "" }: CommandText,
  onCommand: (found: Invocation) => void,
): Command {
  const command = new Command(name)
    .description(summary)
    .exitOverride()
    .helpOption("-h, --help", "print this help")
    .addHelpText("after", `${notes}\nExit status: ${exits}; 64 wrong usage.`);
  for (const key of BOTH) {
    const [flags, description, standard] = COMMON[key];
    command.addOption(new Option(flags, description).default(standard).hideHelp(!reads.includes(key)));
  }
  if (json === true) command.option("--json", "print JSON instead of text");
  if (argument !== undefined)
    command.addArgument(command.createArgument(argument.name).choices([...argument.choices]));
  for (const [flags, description, excludes = []] of options)
    command.addOption(new Option(flags, description).conflicts([...excludes]));
  return command.action((first: unknown) => {
    const given = command.opts<GivenOptions>();
    const { config, dnsmasqDir, json: asJson = false } = given;
    onCommand({ request: toRequest(name, given, first), config, dnsmasqDir, json: asJson });
  });
}

/** @param argument one of the argument's choices; undefined when it is not given */
function toRequest(command: Request["command"], options: GivenOptions, argument: unknown): Request {
  switch (command) {
    case "status":
      return { command, watch: options.watch === true };
    case "history":
      return { command, options };
    case "schema":
      return { command, subject: SUBJECTS.find((each) => each === argument) ?? "config" };
    case "completion":
      return { command, shell: SHELLS.find((each) => each === argument) ?? "bash" };
    default:
      return { command };
  }
}

/** The commands and options as a completion script needs them; from the same source as the help. */
export function describeCommands(): readonly CommandSpec[] {
  const program = createProgram(() => undefined);
  return program.commands.map((command) => ({
    name: command.name(),
    summary: command.description(),
    exits: COMMANDS.find(({ name }) => name === command.name())?.exits ?? "",
    options: command.options
      .filter(({ hidden }) => !hidden)
      .map(({ flags, description, defaultValue }: Option) => ({
        flags,
        description,
        ...(typeof defaultValue === "string" ? { default: defaultValue } : {}),
      })),
    choices: command.registeredArguments[0]?.argChoices,
  }));
}

/** The help after the commands. The man page has it too. */
export const HELP: string = `
Typical use:
  systemctl enable --now kvmnatd      start the daemon, now and at boot
  $EDITOR ${DEFAULT_CONFIG}           saved changes apply at once; a bad file changes nothing
  journalctl -u kvmnatd               every rule that was added or removed, and why
  kvmnatd status                      what is forwarded where, and why not (--watch: live)
  kvmnatd history --port 1122         who had the port when

Environment:
  RUNTIME_DIRECTORY   where status.json is kept (systemd sets it; default /run/kvmnatd)
  NO_COLOR            no colour, whatever it is set to

Signals of the daemon: SIGHUP makes it read everything again; SIGTERM and SIGINT end it (rules: see on_stop).`;
