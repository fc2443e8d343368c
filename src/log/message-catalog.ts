import type { EventCode, Explained } from "../event-codes.ts";

/** What `journalctl -x` shows below an entry of one kind. Plain words, for an admin who sees it for the first time. */
export interface CatalogEntry {
  /** MESSAGE_ID: 128 random bits, made once and never changed or used again for something else. */
  readonly id: string;
  readonly subject: string;
  readonly means: string;
  /** What kvmnatd does about it. */
  readonly does: string;
  /** What the admin may do. */
  readonly todo: string;
}

/** `@FIELD@` stands for the field of the entry. */
export const MESSAGE_CATALOG: Readonly<Record<Explained, CatalogEntry>> = {
  start: {
    id: "5fecbcba7e304dd28d2f5dfb5cdc85ce",
    subject: "kvmnatd has started",
    means: "The daemon that keeps the port forwards to KVM guests true has started.",
    does:
      "It reads its config, libvirt's leases and the kernel's rules, and puts right what differs. Rules that the daemon " +
      "before it left in place and that are still right are not touched, and not logged.",
    todo: "Nothing. `kvmnatd status` shows what is forwarded where.",
  },
  stop: {
    id: "bc9425daceef4d19b5e6e783f7998221",
    subject: "kvmnatd has stopped",
    means: "The daemon has been told to stop. The message says what became of its rules.",
    does:
      "With `on_stop: keep`, the default, the rules stay: forwards go on working, but follow no guest to another address " +
      "any more. With `on_stop: remove` each rule that was removed is logged before this entry.",
    todo: "`systemctl start kvmnatd` starts it again; `kvmnatd teardown` removes rules that were left.",
  },
  "config-loaded": {
    id: "eca8976eb301424f8d4f9137d1ce3c4f",
    subject: "The config of kvmnatd is in force",
    means: "The port map was read at the start, or again because it has changed. It has no faults.",
    does: "The rules that differ are changed in the same pass; the entries after this one show each of them.",
    todo: "Nothing. `kvmnatd status` shows the forwards.",
  },
  "config-invalid": {
    id: "3cf24f81d00b407bae74f62cfc410ac0",
    subject: "The config of kvmnatd is refused",
    means:
      "The port map has a fault, cannot be read, or could have been written by somebody who is not root. The message says " +
      "which.",
    does:
      "It changes nothing: the config that was read before stays in force, whole, and its forwards go on following their " +
      "guests.",
    todo:
      "`kvmnatd check` shows every fault with its line and column. A saved correction applies at once. Do not restart " +
      "kvmnatd before the check passes: without a good config it does not start.",
  },
  "config-warning": {
    id: "d1d70ad494ddb042b2698f24be973395",
    subject: "Something in the config is odd",
    means: "The config is in force, but something in it has no effect, or not the one that it seems to have.",
    does: "It does what the config says.",
    todo: "Look at the place that the message names; `kvmnatd check` shows it in its surroundings.",
  },
  "address-unserved": {
    id: "7084a1079da5a1781cfa8b9b3022db1b",
    subject: "An address in the config can be no guest's",
    means:
      "The config names a guest by an address that lies in no network of libvirt's that is up, or is the bridge's own. The " +
      "network may have been given other addresses since.",
    does: "It leaves the guest pending, and goes on with all others.",
    todo: "Correct the address at the place that the message names; `virsh net-dumpxml NETWORK` shows the network's.",
  },
  waiting: {
    id: "03294653b6564ac3bd737eb5850cc069",
    subject: "kvmnatd waits for libvirt's network",
    means:
      "libvirt's network is not up: its bridge is missing or has no address, or no network has ever had a lease. At boot " +
      "this is normal for a few seconds.",
    does: "It goes on as soon as the network is there; it looks by itself, and logs that once only.",
    todo: "`virsh net-list --all` shows the networks; `virsh net-start default` starts one, `virsh net-autostart default` at each boot.",
  },
  "forward-active": {
    id: "8c7a0b794ab747efaf06095595cc87ed",
    subject: "Ports of guest @KVMNATD_GUEST@ are forwarded",
    means: "The guest's address is known, and its published ports lead there from now on.",
    does: "It has added the rules that the entries after this one show.",
    todo: "Nothing. `kvmnatd history --guest @KVMNATD_GUEST@` shows what was before.",
  },
  "forward-moved": {
    id: "e8745bc365b8499ab9ac92c43cae28ff",
    subject: "Ports of guest @KVMNATD_GUEST@ lead to another address",
    means: "The guest has another address than before, mostly because it was given another lease.",
    does:
      "It has replaced the guest's rules, in one step, and removed connections that still led to the old address from " +
      "conntrack.",
    todo:
      "Nothing. If the guest should keep one address, reserve it in libvirt: " +
      "`virsh net-update NETWORK add ip-dhcp-host \"<host mac='MAC' ip='ADDRESS'/>\" --live --config`.",
  },
  "forward-pending": {
    id: "035f3dc86d8f484090e79721f112cec0",
    subject: "Ports of guest @KVMNATD_GUEST@ lead nowhere for now",
    means:
      "Nothing is known any more of where the guest is: it is off, its lease is over or its network is down. The message " +
      "says which.",
    does: "It has removed the guest's rules, so that nobody else gets its traffic, and adds them again when the guest is back.",
    todo: "`virsh list --all` shows whether the guest runs, `kvmnatd leases` what is known of it, `kvmnatd status` why it is pending.",
  },
  "guest-status-changed": {
    id: "854c0061058d45c6bb14414ef77e6262",
    subject: "There is news of guest @KVMNATD_GUEST@",
    means: "What is known of the guest has changed, but not the address that its ports lead to.",
    does: "No rule was changed.",
    todo: "Nothing, if its ports are forwarded. If they are pending: `kvmnatd leases` shows what is known of the guest.",
  },
  "forward-conflict": {
    id: "d1e0decc0d9c45faaf8e3d764f34acaf",
    subject: "Somebody else claims to be guest @KVMNATD_GUEST@",
    means:
      "Another guest uses the same hostname, or has asked for an address in this guest's name. The message names the MACs. " +
      "It may be a clone that kept its name, or an attack.",
    does:
      "Who held the forward before holds it still. When nobody did, the guest stays pending: kvmnatd does not choose " +
      "between the two.",
    todo:
      "Find the other one: `kvmnatd leases`, then `virsh domiflist DOMAIN` for each. In the config, `domain` or `mac` says " +
      "which guest is meant where `hostname` believes the guest. libvirt's filter keeps a guest from sending in another's " +
      "name: `virsh edit GUEST`, and into its <interface>: `<filterref filter='clean-traffic'/>`.",
  },
  "guest-removed": {
    id: "bec94c19916e4965a45603a133454ffb",
    subject: "Guest @KVMNATD_GUEST@ is no longer published",
    means: "The guest, or the last of its ports, was taken out of the config.",
    does: "It has removed the guest's rules; the entries after this one show each of them.",
    todo: "Nothing.",
  },
  "rules-changed": {
    id: "cde172ae1dfa4f46953c5d8606370285",
    subject: "kvmnatd has put rules right",
    means:
      "The kernel had not the rules that it should have: the config has changed, or another program has flushed, moved or " +
      "deleted rules of kvmnatd. What made it look is in parentheses; after `ruleset changed` it was another program.",
    does: "It has made the changes that the entries after this one show.",
    todo:
      "Nothing, once. If it comes again and again, something on this host rewrites the firewall: look what runs at these " +
      'times with `journalctl --since "-10min"`.',
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
    subject: "Connections that led astray were removed",
    means:
      "The kernel keeps a connection on the way that it took when it began. These had begun before their forward changed, " +
      "or by a reply that was under way meanwhile, and led elsewhere than the rules do now.",
    does: "It has removed them from conntrack, so that their next packet takes the new way.",
    todo: "Nothing. A TCP client of the old way has to connect again.",
  },
  "sysctl-set": {
    id: "d24aeb78b12c4cc08728b1ed21bf2b33",
    subject: "kvmnatd has changed a sysctl",
    means: "The kernel was set not to pass packets on that the forwards need. The message names the setting.",
    does: "It has set it, until the next boot.",
    todo: "Nothing, unless something on this host sets it back: look into /etc/sysctl.conf and /etc/sysctl.d.",
  },
  "problem-resolved": {
    id: "ecf792620f3f44ec9cd299b1b04619eb",
    subject: "A problem is over",
    means: "What an earlier entry complained of is no longer so.",
    does: "It goes on as usual.",
    todo: "Nothing.",
  },
  "sysctl-failed": {
    id: "8de7538cc2ec45eda3d706661d5b5c29",
    subject: "kvmnatd cannot change a sysctl",
    means: "A setting of the kernel keeps forwards from working, and kvmnatd has not the right to change it.",
    does: "Its rules are in place; it tries again and again.",
    todo:
      "Set it by hand, as the message says. If kvmnatd runs in a container or with changes to its unit, " +
      "`systemctl cat kvmnatd` shows whether ReadWritePaths= still has /proc/sys/net/ipv4/ip_forward.",
  },
  "ipv6-forwarding": {
    id: "24906998a469473bb7fb2d0e61db576b",
    subject: "This host passes on no IPv6 packets",
    means: "IPv6 forwards are in the config, but net.ipv6.conf.all.forwarding is 0: none of them works.",
    does:
      "It leaves the setting alone: with it, a host that has its own address from router advertisements may lose it. " +
      "IPv4 forwards work.",
    todo:
      "libvirt sets it when a network with IPv6 starts. By hand: `sysctl -w net.ipv6.conf.all.forwarding=1`, and where the " +
      "host lives on router advertisements `sysctl -w net.ipv6.conf.INTERFACE.accept_ra=2` before it.",
  },
  "bridge-nf": {
    id: "1e5d7bfbd84f54caf30797732f6c8dbe",
    subject: "Guests do not reach their own published ports",
    means:
      "With this setting of the kernel, which Docker and Kubernetes switch on, iptables sees what passes within a bridge as " +
      "well. A guest that connects to a port of the host that leads to itself then gets no answer.",
    does: "It leaves the setting alone. Everybody else, other guests among them, reaches the port.",
    todo:
      "Nothing, if no guest asks for itself by the host's address. Else, where nobody needs the setting, " +
      "`sysctl -w net.bridge.bridge-nf-call-iptables=0`; or for the guest's port of the bridge alone, until the guest " +
      "stops: `bridge link set dev vnetN hairpin on` (`virsh domiflist DOMAIN` shows which). " +
      "`reach: {guests: false}` in the config says that guests need not reach published ports.",
  },
  "port-in-use": {
    id: "1bb298ac1b914316938e67892f30fa60",
    subject: "A program of this host listens on a published port",
    means:
      "Clients that connect to this port from outside reach the guest, not the program of the host any more. The host's " +
      "own sshd on a published port 22 is the dangerous case.",
    does: "It forwards the port, as the config says.",
    todo: "If that is not what you want, publish another port, or publish on one address only: `192.168.1.101:22:22`.",
  },
  "rule-shadowed": {
    id: "4967c4febe42467a899cfa9fba7c7379",
    subject: "A rule of another program has a published port",
    means:
      "In the chain PREROUTING of table nat the first rule that matches decides. Another program has put one before " +
      "kvmnatd's that redirects or accepts packets to a published port: an old line of rc.local, a hook script, Docker. " +
      "The message shows it.",
    does: "Its own rules are in place behind it. A forward that gets nothing at all is called degraded. It touches no rules of others.",
    todo:
      "Remove the rule where it is made, and once by hand: the command of the message with `-D` in place of `-A`. If it is " +
      "right there, publish another port.",
  },
  "change-monitoring-degraded": {
    id: "0679bc1bc7574d4ab4016b53643df091",
    subject: "kvmnatd is not told of all changes",
    means:
      "With iptables-legacy, without the program `nft`, or while a monitor is not running, nobody says when another program " +
      "changes the rules; at the kernel's limit of watches nobody says when a file changes. The message says which it is.",
    does: "It looks at everything every two seconds: what was changed is put right two seconds later at the latest.",
    todo:
      "For the rules: install the package nftables, or move the host to iptables-nft (`update-alternatives --config " +
      "iptables`); both are optional. For the files: raise the sysctl that the message names.",
  },
  "control-socket-failed": {
    id: "341cb4d7f40049c4bebe0cdd3319828c",
    subject: "kvmnatd cannot be asked to reload",
    means:
      "The socket in its runtime folder, over which `kvmnatd reload` and `kvmnatd handover` speak to it, cannot be made.",
    does: "Everything else works.",
    todo:
      "Look whether /run is full or read-only: `df /run`, `findmnt /run`. `systemctl kill -s HUP kvmnatd` makes it look at " +
      "everything anew meanwhile.",
  },
  "status-write-failed": {
    id: "6c3088199bb34cf9b4b61193615777e0",
    subject: "kvmnatd cannot write its status",
    means: "The file that `kvmnatd status` shows cannot be written.",
    does: "Forwards work, and are kept true. `kvmnatd status` shows an old state.",
    todo: "Look whether /run is full or read-only: `df /run`, `findmnt /run`.",
  },
  "log-write-failed": {
    id: "5c28403be67a7445152199c8378f9e01",
    subject: "The log cannot be written",
    means: "What kvmnatd logs to does not take it, a full disk for example. The message says what.",
    does: "Forwards go on. Lines wait in memory, 10 MB at most, and it tries again and again.",
    todo: "As the message says.",
  },
  "log-lines-dropped": {
    id: "942912fd10b856bdd7aaeb772ba48b8c",
    subject: "Lines of the log were lost",
    means: "Whoever reads the log had not taken it for so long that it no longer had room in memory.",
    does: "It goes on logging. Forwards did not wait for it.",
    todo: "What was missed shows in `kvmnatd status` and in the kernel's rules (`iptables-save`).",
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
      "Another program puts a rule that rejects before kvmnatd's jump in FORWARD each time that kvmnatd puts its own before " +
      "it. The message shows the rule. While it stands there the forwards do not pass.",
    does: "After three repairs within a minute it lets the other one win, and tries once a minute whether that has ended.",
    todo:
      "Find who writes the rule (its comment or chain mostly tells) and make it leave kvmnatd's jump where it is, or let in " +
      "what was redirected: `iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT` in that program's own rules.",
  },
  "rules-overwritten": {
    id: "61411eba7424198677f54f6a01ff327f",
    subject: "Another program undoes kvmnatd's rules again and again",
    means:
      "Rules of kvmnatd were put right more than once a second for a minute: something undoes them each time. Perhaps two " +
      "kvmnatd run in one network, with different configs.",
    does: "It puts its rules right once a second, no more; in between forwards may fail.",
    todo: "`pgrep -af kvmnatd` shows whether there are two: stop one. Else look what else writes rules: `nft monitor rules`.",
  },
  "loopback-guard-overridden": {
    id: "5403a0e8dd3d662150b5c1b8b9fd0fe7",
    subject: "Ports are not published on 127.0.0.1: another program is in the way",
    means:
      "With `reach.loopback` guests could reach the host's own 127.0.0.1, but for one rule of kvmnatd in raw PREROUTING. " +
      "Another program puts a rule that lets packets past before it, again and again.",
    does: "It has closed 127.0.0.1 for that bridge; all other forwards work. It tries once a minute whether it may be first.",
    todo: "Let that program leave the rule with the comment kvmnatd:@loopback-guard where it is, or set `reach.loopback: false`.",
  },
  "libvirt-jump-missing": {
    id: "27b4d09b809441e786df6b0eb9c16d5d",
    subject: "libvirt's own protection of the guests is gone",
    means:
      "Somebody has flushed libvirt's jump out of the chain FORWARD. Whoever can route packets to the guests' network now " +
      "reaches all their ports, published or not.",
    does: "It touches no rules of libvirt's. Forwards work.",
    todo: "`systemctl restart libvirtd` (or virtnetworkd) puts the jump back; running guests are not disturbed.",
  },
  "libvirt-rules-missing": {
    id: "84d9c2a9884d4340f2844d4e61b7e96b",
    subject: "libvirt's rules for a network are gone",
    means:
      "The rules that libvirt had made for the network were flushed, all of them: its guests are open to whoever routes to " +
      "them, and do not reach the world. libvirt makes them again only when it starts.",
    does: "Its own rules are in place, forwards work. It does not make libvirt's.",
    todo: "`systemctl restart libvirtd` (or virtnetworkd) puts them back. Look what flushed them, and let it spare them.",
  },
  "libvirt-rules-in-other-variant": {
    id: "0119ad36ec3b47c4bfd44e06d68e127d",
    subject: "libvirt's rules are in the other iptables",
    means:
      "There are two implementations, iptables-nft and iptables-legacy, and packets pass the rules of both. libvirt's are in " +
      "the one that kvmnatd does not use, and reject there what kvmnatd lets in.",
    does: "Its rules are in place, but forwards do not pass.",
    todo:
      "If libvirt uses that one, write `iptables: legacy` (or `nft`) into kvmnatd's config. If they are left over from " +
      "before a change, the message has the command that removes them.",
  },
  "conntrack-failed": {
    id: "8de531dcb0c34413b591c192710ad974",
    subject: "kvmnatd cannot look at connections",
    means: "The program `conntrack` is missing or failed. New connections take the right way all the same.",
    does: "It tries again every ten seconds. Until then, a connection that began before its forward changed keeps its old way.",
    todo: "`apt-get install conntrack` (Fedora and its kin: `dnf install conntrack-tools`).",
  },
  "lease-folder": {
    id: "ca2024a26df5449fbfde509b7cf0c736",
    subject: "libvirt's lease files cannot be read",
    means:
      "The folder in which libvirt keeps its leases is not there, or kvmnatd has not the right to read it.",
    does: "What it knew before stays in force until those leases expire.",
    todo: "`ls -ld /var/lib/libvirt/dnsmasq` shows its rights, `systemctl cat kvmnatd` who kvmnatd runs as.",
  },
  "lease-file": {
    id: "4a64026751d34b2593dfebadfe0f6d90",
    subject: "A lease file of libvirt's cannot be read",
    means: "The file is not whole, not what libvirt writes, or not readable. The message says which.",
    does: "What it knew of this network before stays in force until those leases expire. A half-written file is read again.",
    todo:
      "If it does not go away within seconds: look whether /var is full (`df /var`); restarting the network " +
      "(`virsh net-destroy NETWORK`, `virsh net-start NETWORK`) makes libvirt write it anew, but cuts its guests off.",
  },
  "lease-row": {
    id: "3f632873854b4affb9653ae59c74ecad",
    subject: "A lease was left out",
    means: "One row of a lease file has no valid address, MAC or time. The message shows it.",
    does: "It takes all the other rows.",
    todo: "Nothing, if the guest is not one of yours. A guest may send nonsense on purpose.",
  },
  "command-failed": {
    id: "ea8b0ce1478c451abef9a8eec160557b",
    subject: "A program that kvmnatd needs has failed",
    means: "The message shows the program, its arguments and what it said.",
    does: "It tries again by itself, at growing intervals of 30 seconds at most. Rules in the kernel stay as they are.",
    todo:
      "If the program is missing, install its package. If it has no right to do its work, compare the unit: " +
      "`systemctl cat kvmnatd`. Else run the command by hand, as root.",
  },
  "proc-unreadable": {
    id: "adc9a28c042e2aff879c46f3611b03d2",
    subject: "kvmnatd cannot read a file of the kernel's",
    means: "A file below /proc is there and cannot be read, mostly because too many files are open.",
    does: "The rules stay as they are; it tries again and again.",
    todo:
      "As the message says. `systemctl cat kvmnatd` shows whether a change of the unit hides /proc, " +
      "`cat /proc/sys/fs/file-nr` how many files are open on this host.",
  },
  "verify-failed": {
    id: "a49085bf9bfa45df880f35d85a86f07b",
    subject: "The kernel's rules are not what was written",
    means:
      "kvmnatd wrote its rules, read them again, and they were different: another program was writing at the same time.",
    does: "It looks again at once, and goes on until they are right.",
    todo: "Nothing, once. If it stays, find out who rewrites the firewall: `nft monitor` shows each change and its program.",
  },
  "incompatible-table": {
    id: "ab88b7d4d8754f0a818ebb4c34cb63e0",
    subject: "iptables cannot read one of its tables",
    means:
      "Somebody has put rules that only nft understands into a table that iptables owns. No iptables command can use it.",
    does: "It changes nothing in this table, and looks again by itself.",
    todo: "`nft list table ip nat` (or as the message says) shows the rules; move them to a table of their own.",
  },
  "teardown-incomplete": {
    id: "5a85a416ca4d4198a3c21a1c31da5b36",
    subject: "Rules of kvmnatd may be left",
    means:
      "kvmnatd stops with `on_stop: remove`, and could not remove or not read some of its rules. The message says why.",
    does: "It has stopped.",
    todo: "`kvmnatd teardown` tries again, and shows what it removes.",
  },
};

/** @returns undefined for what explains itself */
export function catalogEntryFor(code: EventCode): CatalogEntry | undefined {
  const known: Readonly<Record<string, CatalogEntry>> = MESSAGE_CATALOG;
  return known[code];
}
