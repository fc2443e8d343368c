import { describeCommands, HELP } from "../../src/cli/arguments.ts";
import type { CommandSpec } from "../../src/cli/completion.ts";
import type { Block } from "./roff.ts";

/** Builds kvmnatd(8) from the program's own help. */
export function programPage(): readonly Block[] {
  const commands = describeCommands();
  return [
    { kind: "section", title: "Name" },
    { kind: "text", text: "kvmnatd - publishes ports of KVM guests on libvirt's NAT networks" },
    { kind: "section", title: "Synopsis" },
    { kind: "text", text: "`kvmnatd` COMMAND [OPTION...]" },
    { kind: "section", title: "Description" },
    {
      kind: "text",
      text: "kvmnatd keeps the iptables rules up to date that forward ports of this host to guests on libvirt's NAT networks. The port map `/etc/kvmnatd.yaml` names guests and ports. kvmnatd follows the guests' DHCP leases, repairs the rules when another program changes them, and writes every rule that it adds or removes to the journal.",
    },
    {
      kind: "text",
      text: "It owns the chains whose names begin with `KVMNATD-`, the jumps to them and, where libvirt uses nftables, a chain `kvmnatd` in libvirt's table. Each of its rules has a comment that begins with `kvmnatd:`. It changes no other rule. It sets `net.ipv4.ip_forward` to 1, and with `reach.loopback` the bridge's `route_localnet`.",
    },
    { kind: "section", title: "Commands" },
    ...commands.flatMap(describeCommand),
    { kind: "section", title: "Options" },
    ...commonOptions(commands).map(({ flags, description, default: value }): Block => ({
      kind: "term",
      term: flags,
      text: value === undefined ? description : `${description}; \`${value}\` when it is not given`,
    })),
    { kind: "section", title: "Exit status" },
    ...EXIT_CODES.map(([term, text]): Block => ({ kind: "term", term, text })),
    ...helpSections(),
    { kind: "section", title: "Journal" },
    {
      kind: "text",
      text: "`journalctl -u kvmnatd` shows one line with the reason, then one line a rule. Each entry of the service has fields to filter by, as in `journalctl KVMNATD_GUEST=web KVMNATD_ACTION=add`:",
    },
    ...FIELDS.map(([term, text]): Block => ({ kind: "term", term, text })),
    { kind: "section", title: "Files" },
    ...FILES.map(([term, text]): Block => ({ kind: "term", term, text })),
    { kind: "section", title: "See also" },
    {
      kind: "text",
      text: "`kvmnatd.yaml`(5), `iptables`(8), `nft`(8), `conntrack`(8), `journalctl`(1), `virsh`(1)",
    },
  ];
}

function describeCommand({ name, summary, exits, options, choices }: CommandSpec): readonly Block[] {
  const own = options.filter(({ flags }) => !COMMON.test(flags));
  const argument = choices === undefined ? "" : ` ${choices.join("|")}`;
  const more = own.map(({ flags, description }) => `\`${flags}\`: ${description}.`).join(" ");
  return [
    {
      kind: "term",
      term: `${name}${argument}`,
      text: `${summary}. ${more} Exit status: ${exits}.`,
    },
  ];
}

/** Options that every command takes. */
const COMMON = /^(-c, --config|--dnsmasq-dir|-h, --help)/;

function commonOptions(commands: readonly CommandSpec[]): CommandSpec["options"] {
  const [first] = commands;
  const shared = first?.options.filter(({ flags }) => COMMON.test(flags)) ?? [];
  return [
    ...shared,
    { flags: "-h, --help", description: "print the help, of a command or of them all" },
    { flags: "-V, --version", description: "print the version" },
  ];
}

/** Converts the last sections of the help ("Environment:", "Signals of the daemon:"), so that they are written once. */
function helpSections(): readonly Block[] {
  const blocks: Block[] = [];
  for (const part of HELP.trim().split("\n\n")) {
    const [head = "", ...lines] = part.split("\n");
    const [title = "", ...rest] = head.split(":");
    blocks.push({ kind: "section", title });
    const text = rest.join(":").trim();
    if (text !== "") blocks.push({ kind: "text", text });
    for (const line of lines) {
      const [, term = "", meaning = ""] = /^\s+(\S.*?)\s{2,}(\S.*)$/.exec(line) ?? [];
      if (term === "") blocks.push({ kind: "text", text: line });
      else blocks.push({ kind: "term", term, text: meaning });
    }
  }
  return blocks;
}

/** The values of src/errors.ts, which takes them from sysexits.h where it has one. */
const EXIT_CODES = [
  ["0", "success"],
  ["1", "failure; the message says what to do"],
  ["2", "`plan`: there are changes"],
  ["3", "`status`: some forwards are pending or degraded, or there is an error"],
  ["4", "the daemon does not run"],
  ["64", "wrong usage"],
  ["70", "a bug in kvmnatd"],
  ["78", "the config is invalid; existing rules stay"],
] as const;

const FIELDS = [
  ["KVMNATD_EVENT", "the kind of entry, such as `forward-moved` or `rule`"],
  ["KVMNATD_GUEST", "the name of the guest in the port map"],
  ["KVMNATD_RULE", "the rule, as an iptables or nft command"],
  ["KVMNATD_ACTION", "`add` or `remove`"],
  ["KVMNATD_PASS", "number of the pass, the same for all entries of one pass"],
  ["KVMNATD_REASON", "the trigger of the pass"],
] as const;

const FILES = [
  ["/etc/kvmnatd.yaml", "the port map"],
  ["/run/kvmnatd/status.json", "the state of the daemon; `kvmnatd status --json` adds the counters"],
  ["/var/lib/libvirt/dnsmasq/BRIDGE.status", "libvirt's leases of a network; read only"],
  [
    "/var/lib/libvirt/dnsmasq/BRIDGE.macs",
    "libvirt's list of running domains and their MAC addresses; read only",
  ],
] as const;
