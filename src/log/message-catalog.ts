import type { EventCode, Explained } from "../event-codes.ts";

/** The text that `journalctl -x` shows below an entry of one kind, for an admin who sees it for the first time. */
export interface CatalogEntry {
  /** MESSAGE_ID: 128 random bits. It is never changed and never used for another kind of entry. */
  readonly id: string;
  readonly subject: string;
  readonly means: string;
  /** kvmnatd's reaction. */
  readonly does: string;
  /** The admin's options. */
  readonly todo: string;
}

/** `@FIELD@` stands for the field of the entry. */
export const MESSAGE_CATALOG: Readonly<Record<Explained, CatalogEntry>> = {
  start: {
    id: "5fecbcba7e304dd28d2f5dfb5cdc85ce",
    subject: "kvmnatd has started",
    means: "The daemon that keeps the port forwards to KVM guests up to date has started.",
    does:
      "It reads its config, libvirt's leases and the kernel's rules, and corrects the differences. It does not touch " +
      "and does not log correct rules that an earlier daemon left in place.",
    todo: "Nothing. `kvmnatd status` shows where each port is forwarded.",
  },
  stop: {
    id: "bc9425daceef4d19b5e6e783f7998221",
    subject: "kvmnatd has stopped",
    means: "systemd or an admin has stopped the daemon. The message says what happened to its rules.",
    does:
      "With `on_stop: keep`, the default, the rules stay: forwards keep working, but no longer follow a guest to " +
      "another address. With `on_stop: remove` kvmnatd has logged each removed rule before this entry.",
    todo: "`systemctl start kvmnatd` starts it again; `kvmnatd teardown` removes the rules that it left.",
  },
  "config-loaded": {
    id: "eca8976eb301424f8d4f9137d1ce3c4f",
    subject: "The config of kvmnatd is in force",
    means: "kvmnatd has read the port map, at the start or after a change. It is valid.",
    does: "It changes the rules that differ in the same pass; the entries after this one show each of them.",
    todo: "Nothing. `kvmnatd status` shows the forwards.",
  },
  "config-invalid": {
    id: "3cf24f81d00b407bae74f62cfc410ac0",
    subject: "kvmnatd rejects its config",
    means:
      "The port map has an error, cannot be read, or is writable by a user other than root. The message says which.",
    does: "It changes nothing: the previous config stays in force as a whole, and its forwards keep following their guests.",
    todo:
      "`kvmnatd check` shows every error with its line and column. kvmnatd applies a saved correction at once. Do not " +
      "restart kvmnatd before the check passes: it does not start without a valid config.",
  },
  "config-warning": {
    id: "d1d70ad494ddb042b2698f24be973395",
    subject: "A setting in the config has no effect",
    means:
      "The config is in force, but one of its settings has no effect, or another effect than it seems to have.",
    does: "It does what the config says.",
    todo: "Read the line that the message names; `kvmnatd check` shows it with the lines around it.",
  },
  "address-unserved": {
    id: "7084a1079da5a1781cfa8b9b3022db1b",
    subject: "An address in the config cannot belong to a guest",
    means:
      "The config names a guest by an address that is outside every libvirt network that is up, or is the address of " +
      "the bridge itself. The subnet of a network may have changed since.",
    does: "It leaves the guest pending and serves all others.",
    todo:
      "Correct the address in the line that the message names; `virsh net-dumpxml NETWORK` shows the subnet of a " +
      "network.",
  },
  waiting: {
    id: "03294653b6564ac3bd737eb5850cc069",
    subject: "kvmnatd waits for libvirt's network",
    means:
      "libvirt's network is not up: its bridge is missing or has no address, or no network has ever had a lease. At " +
      "boot this is normal for a few seconds.",
    does: "It continues as soon as the network is up, and logs the wait only once.",
    todo:
      "`virsh net-list --all` shows the networks; `virsh net-start default` starts one, `virsh net-autostart default` " +
      "starts it at each boot.",
  },
  "forward-active": {
    id: "8c7a0b794ab747efaf06095595cc87ed",
    subject: "Ports of guest @KVMNATD_GUEST@ are forwarded",
    means: "kvmnatd has found the guest's address. From now on the published ports are forwarded to it.",
    does: "It has added the rules that the entries after this one show.",
    todo: "Nothing. `kvmnatd history --guest @KVMNATD_GUEST@` shows where they were forwarded before.",
  },
  "forward-moved": {
    id: "e8745bc365b8499ab9ac92c43cae28ff",
    subject: "Ports of guest @KVMNATD_GUEST@ are forwarded to another address",
    means: "The guest has another address than before, usually because DHCP gave it another lease.",
    does: "It has replaced the guest's rules in one step, and has removed connections to the old address from conntrack.",
    todo:
      "Nothing. If the guest should keep one address, reserve it in libvirt: " +
      "`virsh net-update NETWORK add ip-dhcp-host \"<host mac='MAC' ip='ADDRESS'/>\" --live --config`.",
  },
  "forward-pending": {
    id: "035f3dc86d8f484090e79721f112cec0",
    subject: "Ports of guest @KVMNATD_GUEST@ are not forwarded for now",
    means:
      "kvmnatd no longer knows the address of the guest: the guest is off, its lease has ended or its network is down. " +
      "The message says which.",
    does:
      "It has removed the guest's rules, so that no other guest receives its traffic. It adds them again when the guest " +
      "is back.",
    todo:
      "`virsh list --all` shows whether the guest runs, `kvmnatd leases` shows its leases, `kvmnatd status` why it is " +
      "pending.",
  },
  "guest-status-changed": {
    id: "854c0061058d45c6bb14414ef77e6262",
    subject: "The status of guest @KVMNATD_GUEST@ has changed",
    means:
      "kvmnatd knows more or less about the guest than before, but its ports are forwarded to the same address.",
    does: "It has not changed a rule.",
    todo: "Nothing, if its ports are forwarded. If they are pending, `kvmnatd leases` shows the leases of the guest.",
  },
  "forward-conflict": {
    id: "d1e0decc0d9c45faaf8e3d764f34acaf",
    subject: "Another guest claims to be guest @KVMNATD_GUEST@",
    means:
      "Another guest uses the same hostname, or has requested an address in this guest's name. The message names the " +
      "MAC addresses. Reasons are a clone that kept its name, or an attack.",
    does:
      "A guest that had the forward keeps it. If neither had it, the guest stays pending: kvmnatd does not choose " +
      "between the two.",
    todo:
      "Find the other guest: `kvmnatd leases`, then `virsh domiflist DOMAIN` for each. In the config, name the guest by " +
      "`domain` or `mac`; `hostname` trusts a name that any guest can send. libvirt's filter stops a guest from sending " +
      "in another's name: `virsh edit GUEST`, and into its <interface>: `<filterref filter='clean-traffic'/>`.",
  },
  "guest-removed": {
    id: "bec94c19916e4965a45603a133454ffb",
    subject: "Guest @KVMNATD_GUEST@ is no longer published",
    means: "The guest, or the last of its ports, is no longer in the config.",
    does: "It has removed the guest's rules; the entries after this one show each of them.",
    todo: "Nothing.",
  },
  "rules-changed": {
    id: "cde172ae1dfa4f46953c5d8606370285",
    subject: "kvmnatd has corrected its rules",
    means:
      "The kernel did not have the rules that it should have: the config has changed, or another program has flushed, " +
      "moved or deleted rules of kvmnatd. The reason for the pass is in parentheses; `ruleset changed` means another " +
      "program.",
    does: "It has made the changes that the entries after this one show.",
    todo:
      "Nothing, if it happens once. If it repeats, another program on this host rewrites the firewall: find out which " +
      'runs at these times with `journalctl --since "-10min"`.',
  },
  "rules-removed": {
    id: "8b1cb8ed1abb4017a45d1075156e8bfd",
    subject: "kvmnatd has removed its rules",
    means: "The daemon stops, and its config says `on_stop: remove`: no port is forwarded any more.",
    does: "It has removed every rule, chain and jump of its own. The entries after this one show each of them.",
    todo: "Nothing. `systemctl start kvmnatd` puts the rules back; with `on_stop: keep` they stay when it stops.",
  },
  "conntrack-entries-removed": {
    id: "3eabee56dbd44d4a8ddd948fe17f6485",
    subject: "Stale connections were removed",
    means:
      "The kernel keeps a connection on the path that it took when it began. These connections began before their " +
      "forward changed, or from a reply that arrived during the change. They no longer agreed with the rules.",
    does: "It has removed them from conntrack, so that their next packet follows the rules.",
    todo: "Nothing. A TCP client of the old target has to connect again.",
  },
  "sysctl-set": {
    id: "d24aeb78b12c4cc08728b1ed21bf2b33",
    subject: "kvmnatd has changed a sysctl",
    means: "A kernel setting kept the kernel from forwarding packets. The message names the setting.",
    does: "It has set it, until the next boot.",
    todo: "Nothing. If another program keeps setting it back, check /etc/sysctl.conf and /etc/sysctl.d.",
  },
  "problem-resolved": {
    id: "ecf792620f3f44ec9cd299b1b04619eb",
    subject: "A problem is resolved",
    means: "The problem of an earlier entry no longer exists.",
    does: "It continues as usual.",
    todo: "Nothing.",
  },
  "sysctl-failed": {
    id: "8de7538cc2ec45eda3d706661d5b5c29",
    subject: "kvmnatd cannot change a sysctl",
    means: "A kernel setting keeps forwards from working, and kvmnatd does not have the right to change it.",
    does: "Its rules are in place; it retries.",
    todo:
      "Set it by hand, as the message says. If kvmnatd runs in a container or with a changed unit, `systemctl cat " +
      "kvmnatd` shows whether ReadWritePaths= still contains /proc/sys/net/ipv4/ip_forward.",
  },
  "ipv6-forwarding": {
    id: "24906998a469473bb7fb2d0e61db576b",
    subject: "This host does not forward IPv6 packets",
    means: "IPv6 forwards are in the config, but net.ipv6.conf.all.forwarding is 0: none of them works.",
    does:
      "It does not change the setting: a host that has its own address from router advertisements may lose it. IPv4 " +
      "forwards work.",
    todo:
      "libvirt sets it when a network with IPv6 starts. By hand: `sysctl -w net.ipv6.conf.all.forwarding=1`; on a host " +
      "that uses router advertisements, run `sysctl -w net.ipv6.conf.INTERFACE.accept_ra=2` before it.",
  },
  "bridge-nf": {
    id: "1e5d7bfbd84f54caf30797732f6c8dbe",
    subject: "Guests do not reach their own published ports",
    means:
      "With this kernel setting, which Docker and Kubernetes switch on, iptables also sees packets within a bridge. A " +
      "guest that connects to a port of the host that is forwarded to itself gets no answer.",
    does: "It does not change the setting. All others, including other guests, reach the port.",
    todo:
      "Nothing, if no guest connects to itself by the host's address. If no program needs the setting, `sysctl -w " +
      "net.bridge.bridge-nf-call-iptables=0`. To help one guest until it stops: `bridge link set dev vnetN hairpin on` " +
      "(`virsh domiflist DOMAIN` shows the port of the bridge). `reach: {guests: false}` in the config says that guests " +
      "need not reach published ports.",
  },
  "port-in-use": {
    id: "1bb298ac1b914316938e67892f30fa60",
    subject: "A program of this host listens on a published port",
    means:
      "Clients that connect to this port from outside reach the guest, and no longer the program of the host. A " +
      "published port 22 hides the host's own sshd.",
    does: "It forwards the port, as the config says.",
    todo: "If this is not intended, publish another port, or publish on one address only: `192.168.1.101:22:22`.",
  },
  "rule-shadowed": {
    id: "4967c4febe42467a899cfa9fba7c7379",
    subject: "A rule of another program takes a published port",
    means:
      "In the chain PREROUTING of table nat the first matching rule decides. Another program has inserted a rule before " +
      "kvmnatd's that redirects or accepts packets to a published port: a line in rc.local, a hook script, Docker. The " +
      "message shows it.",
    does:
      "Its own rules are in place behind it. A forward that receives no packets because of it is degraded. kvmnatd does " +
      "not touch rules of other programs.",
    todo:
      "Remove the rule from the program that adds it, and once by hand: the command in the message with `-D` in place " +
      "of `-A`. If the rule is right, publish another port.",
  },
  "change-monitoring-degraded": {
    id: "0679bc1bc7574d4ab4016b53643df091",
    subject: "kvmnatd does not see all changes at once",
    means:
      "The kernel does not report changes of the rules with iptables-legacy, without the program `nft`, or while a " +
      "monitor does not run. It does not report changes of files when its limit of file watches is reached. The message " +
      "says which applies.",
    does: "It checks everything every two seconds, so it corrects a change after two seconds at most.",
    todo:
      "For the rules: install the package nftables, or move the host to iptables-nft (`update-alternatives --config " +
      "iptables`); both are optional. For the files: raise the sysctl that the message names.",
  },
  "control-socket-failed": {
    id: "341cb4d7f40049c4bebe0cdd3319828c",
    subject: "kvmnatd does not accept reload requests",
    means:
      "kvmnatd cannot create the socket in its runtime folder that `kvmnatd reload` and `kvmnatd handover` connect to.",
    does: "Everything else works.",
    todo:
      "Check whether /run is full or read-only: `df /run`, `findmnt /run`. Until then `systemctl kill -s HUP kvmnatd` " +
      "starts a full pass.",
  },
  "status-write-failed": {
    id: "6c3088199bb34cf9b4b61193615777e0",
    subject: "kvmnatd cannot write its status",
    means: "The file that `kvmnatd status` shows cannot be written.",
    does: "Forwards work and follow their guests. `kvmnatd status` shows an old state.",
    todo: "Check whether /run is full or read-only: `df /run`, `findmnt /run`.",
  },
  "log-write-failed": {
    id: "5c28403be67a7445152199c8378f9e01",
    subject: "The log cannot be written",
    means: "The log does not accept lines, for example because a disk is full. The message has the reason.",
    does: "Forwards keep working. Lines wait in memory, 10 MB at most, and kvmnatd retries.",
    todo: "Follow the message.",
  },
  "log-lines-dropped": {
    id: "942912fd10b856bdd7aaeb772ba48b8c",
    subject: "Log lines were lost",
    means: "The reader of the log did not accept lines for so long that the buffer in memory was full.",
    does: "It continues to log. Forwards did not wait for the log.",
    todo: "`kvmnatd status` and the kernel's rules (`iptables-save`) show the present state.",
  },
  "metrics-listening": {
    id: "ed82405c9eeb478f9424ffcea7e269bf",
    subject: "The metrics endpoint is open",
    means: "Prometheus can scrape kvmnatd at the address in the message.",
    does: "It answers on this address until `metrics` in the config changes.",
    todo: "Nothing.",
  },
  "metrics-unavailable": {
    id: "42ffaac7c86ce2847fea1e124fb853ad",
    subject: "The metrics endpoint cannot be opened",
    means:
      "Prometheus cannot scrape kvmnatd: another program uses the port that `metrics` names, or the address is not on this " +
      "host. The message says which.",
    does: "All forwards work as before. kvmnatd retries every two seconds.",
    todo: "`ss -ltnp` shows which program uses the port; change `metrics` in the config, or remove it.",
  },
  "jump-overridden": {
    id: "0b6b27887a2341b9bdbdf8692af1e166",
    subject: "Another program keeps a rejecting rule before kvmnatd's",
    means:
      "Whenever kvmnatd moves its jump in FORWARD before a rule that rejects, another program moves its rule to the " +
      "front again. The message shows the rule. While it stands there the forwards do not work.",
    does: "After three repairs within a minute it gives way, and retries once a minute.",
    todo:
      "Find the program that writes the rule (its comment or chain usually names it). Configure it to leave kvmnatd's " +
      "jump in place, or to accept redirected packets: `iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT` in " +
      "its own rules.",
  },
  "rules-overwritten": {
    id: "61411eba7424198677f54f6a01ff327f",
    subject: "Another program keeps undoing kvmnatd's rules",
    means:
      "kvmnatd has corrected its rules more than once a second for a minute: another program undoes them each time. A " +
      "possible reason are two kvmnatd daemons in one network with different configs.",
    does: "It corrects its rules once a second at most; in between forwards may fail.",
    todo: "`pgrep -af kvmnatd` shows whether two run: stop one. Otherwise `nft monitor rules` shows which rules change.",
  },
  "loopback-guard-overridden": {
    id: "5403a0e8dd3d662150b5c1b8b9fd0fe7",
    subject: "Ports are not published on 127.0.0.1: another program interferes",
    means:
      "With `reach.loopback` one rule of kvmnatd in raw PREROUTING keeps guests away from the host's own 127.0.0.1. " +
      "Another program keeps inserting a rule before it that accepts packets.",
    does: "It has closed 127.0.0.1 for that bridge; all other forwards work. It retries once a minute.",
    todo:
      "Configure that program to leave the rule with the comment kvmnatd:@loopback-guard in its place, or set " +
      "`reach.loopback: false`.",
  },
  "libvirt-jump-missing": {
    id: "27b4d09b809441e786df6b0eb9c16d5d",
    subject: "libvirt's own protection of the guests is gone",
    means:
      "Another program has removed libvirt's jump from the chain FORWARD. Every machine that can route packets to the " +
      "guests' network now reaches all their ports, published or not.",
    does: "It does not touch libvirt's rules. Forwards work.",
    todo: "`systemctl restart libvirtd` (or virtnetworkd) restores the jump and does not disturb running guests.",
  },
  "libvirt-rules-missing": {
    id: "84d9c2a9884d4340f2844d4e61b7e96b",
    subject: "libvirt's rules for a network are gone",
    means:
      "Another program has flushed all rules that libvirt made for the network. Every machine that can route to its " +
      "guests reaches them, and they do not reach the outside. libvirt makes the rules again only when it starts.",
    does: "Its own rules are in place and forwards work. It does not make libvirt's rules.",
    todo:
      "`systemctl restart libvirtd` (or virtnetworkd) restores them. Find the program that flushed them and configure " +
      "it to keep them.",
  },
  "libvirt-rules-in-other-variant": {
    id: "0119ad36ec3b47c4bfd44e06d68e127d",
    subject: "libvirt's rules are in the other iptables",
    means:
      "There are two implementations, iptables-nft and iptables-legacy, and packets pass the rules of both. libvirt's " +
      "rules are in the one that kvmnatd does not use, and reject there what kvmnatd accepts.",
    does: "Its rules are in place, but forwards do not work.",
    todo:
      "If libvirt uses that implementation, write `iptables: legacy` (or `nft`) into kvmnatd's config. If an earlier " +
      "libvirt left the rules, the message has the command that removes them.",
  },
  "conntrack-failed": {
    id: "8de531dcb0c34413b591c192710ad974",
    subject: "kvmnatd cannot read connections",
    means: "The program `conntrack` is missing or failed. New connections follow the rules all the same.",
    does:
      "It retries every ten seconds. Until then, a connection that began before its forward changed keeps its old " +
      "target.",
    todo: "`apt-get install conntrack` (Fedora, RHEL: `dnf install conntrack-tools`).",
  },
  "lease-folder": {
    id: "ca2024a26df5449fbfde509b7cf0c736",
    subject: "libvirt's lease files cannot be read",
    means: "The folder of libvirt's leases does not exist, or kvmnatd does not have the right to read it.",
    does: "The leases that it read before stay in force until they expire.",
    todo: "`ls -ld /var/lib/libvirt/dnsmasq` shows its permissions, `systemctl cat kvmnatd` the user that kvmnatd runs as.",
  },
  "lease-file": {
    id: "4a64026751d34b2593dfebadfe0f6d90",
    subject: "A lease file of libvirt cannot be read",
    means: "The file is incomplete, is not in libvirt's format, or is not readable. The message says which.",
    does:
      "The leases of this network that it read before stay in force until they expire. It reads an incomplete file " +
      "again.",
    todo:
      "If it does not disappear within seconds, check whether /var is full (`df /var`). Restarting the network (`virsh " +
      "net-destroy NETWORK`, `virsh net-start NETWORK`) makes libvirt write the file again, but disconnects its guests.",
  },
  "lease-row": {
    id: "3f632873854b4affb9653ae59c74ecad",
    subject: "A lease was ignored",
    means:
      "One row of a lease file does not have a valid address, MAC address or time. The message shows it.",
    does: "It uses all other rows.",
    todo: "Nothing, if the guest is not yours. A guest can send nonsense on purpose.",
  },
  "command-failed": {
    id: "ea8b0ce1478c451abef9a8eec160557b",
    subject: "A program that kvmnatd needs has failed",
    means: "The message shows the program, its arguments and its error.",
    does: "It retries at growing intervals, 30 seconds at most. Rules in the kernel stay as they are.",
    todo:
      "If the program is missing, install its package. If it does not have the right to do its work, compare the unit: " +
      "`systemctl cat kvmnatd`. Otherwise run the command by hand, as root.",
  },
  "proc-unreadable": {
    id: "adc9a28c042e2aff879c46f3611b03d2",
    subject: "kvmnatd cannot read a file in /proc",
    means: "A file below /proc exists and cannot be read, usually because too many files are open.",
    does: "The rules stay as they are; it retries.",
    todo:
      "Follow the message. `systemctl cat kvmnatd` shows whether a changed unit hides /proc, `cat /proc/sys/fs/file-nr` " +
      "how many files are open on this host.",
  },
  "verify-failed": {
    id: "a49085bf9bfa45df880f35d85a86f07b",
    subject: "The kernel's rules differ from what kvmnatd wrote",
    means:
      "kvmnatd wrote its rules, read them again, and they were different: another program wrote at the same time.",
    does: "It retries at once, until they are right.",
    todo:
      "Nothing, if it happens once. If it stays, find the program that rewrites the firewall: `nft monitor` shows each " +
      "change and its program.",
  },
  "incompatible-table": {
    id: "ab88b7d4d8754f0a818ebb4c34cb63e0",
    subject: "iptables cannot read one of its tables",
    means:
      "Another program has put native nftables rules into a table that iptables owns. No iptables command can use the " +
      "table.",
    does: "It changes nothing in this table, and retries.",
    todo: "`nft list table ip nat` (or as the message says) shows the rules; move them to a table of their own.",
  },
  "teardown-incomplete": {
    id: "5a85a416ca4d4198a3c21a1c31da5b36",
    subject: "Rules of kvmnatd may be left",
    means:
      "kvmnatd stopped with `on_stop: remove` and could not remove or read some of its rules. The message has the " +
      "reason.",
    does: "It has stopped.",
    todo: "`kvmnatd teardown` retries, and shows the rules that it removes.",
  },
};

/** @returns undefined for a code whose entries need no explanation */
export function catalogEntryFor(code: EventCode): CatalogEntry | undefined {
  const known: Readonly<Record<string, CatalogEntry>> = MESSAGE_CATALOG;
  return known[code];
}
