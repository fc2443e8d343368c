import { writeFile } from "node:fs/promises";
import type { DaemonWorld } from "./daemon-world.ts";
import type { Daemon } from "./lab.ts";
import type { Random } from "./random.ts";
import { CLIENT, CLIENT_SECOND, DB, LIBVIRT_TABLE, leaseRow, libvirtRules, NETWORKS, WEB } from "./world.ts";

/*
 * What a host goes through, at random: guests that come, go and move, an admin who edits, others who write rules, and
 * a daemon that is killed. Each step is done in the real lab and noted in a model that is too simple to be wrong.
 */
type GuestName = "web" | "db";
/** Namespaces that serve; which guest is there is changed by the steps. */
type Place = "web" | "db";

const MACS: Readonly<Record<GuestName, string>> = { web: WEB.mac, db: DB.mac };
const ADDRESSES: Readonly<Record<Place, string>> = { web: WEB.address, db: DB.address };
export const PORTS = [1122, 1222, 1322, 1422] as const;

interface Published {
  readonly guest: GuestName;
  /** The only client let in; undefined: everybody. */
  readonly allow?: string;
}

export interface Walk {
  readonly model: Model;
  /** One random step. @returns what it was */
  step(): Promise<string>;
  /**
   * Makes sure that the daemon has a good config: only then a state is promised. Half of the time all guests are up
   * then, each with a port: where nothing is to pass, nobody notices what is missing.
   */
  calm(): Promise<void>;
  /** Foreign rules as they are where kvmnatd never ran. */
  foreign(): Promise<string>;
  daemon(): Daemon;
}

interface Model {
  readonly places: Map<GuestName, Place>;
  readonly on: Set<GuestName>;
  readonly ports: Map<number, Published>;
  configIsGood: boolean;
}

/** What a client must get at a port of the host. */
export function expectedAnswer({ places, on, ports }: Model, port: number, client: string): string {
  const published = ports.get(port);
  const place = published === undefined ? undefined : places.get(published.guest);
  if (published === undefined || place === undefined || !on.has(published.guest)) return "denied";
  if (published.allow !== undefined && published.allow !== client) return "denied";
  return `${place} 22 ${client}`;
}

export function isActive({ places, on }: Model, guest: string): boolean {
  return places.has(guest as GuestName) && on.has(guest as GuestName);
}

/** Without tables and built-in chains that are empty: they come into being with the first rule in them, ours too. */
export async function readForeign(world: DaemonWorld, netns = "host"): Promise<string> {
  let table = "";
  const lines = (await world.foreignRules(netns)).split("\n").flatMap((line) => {
    if (/^(\*|==)/.test(line)) table = line.startsWith("*") ? `${table.split("*")[0]}${line}` : line;
    const counts = table.startsWith("== nft") || /^(-A|:\S+ -|:\S+ DROP)/.test(line);
    return counts ? [`${table} ${line}`] : [];
  });
  return lines.join("\n");
}

/** What Docker 26 puts into tables of others, shortened. */
const DOCKER = `
iptables-nft -N DOCKER-USER && iptables-nft -A DOCKER-USER -j RETURN
iptables-nft -C FORWARD -j DOCKER-USER || iptables-nft -I FORWARD -j DOCKER-USER
iptables-nft -P FORWARD DROP
iptables-nft -t nat -N DOCKER && iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
`;

/** firewalld 2's way through FORWARD, shortened: what was redirected passes, the rest is rejected. */
const FIREWALLD = `
nft delete table inet firewalld
nft -f - <<'NFT'
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state established,related accept
    ct status dnat accept
    reject with icmpx admin-prohibited
  }
}
NFT
`;

/**
 * The shadow is a network namespace that gets every foreign command, and never kvmnatd: its rules are what the host's
 * foreign rules must be. `iif` in a rule needs the link.
 */
const SHADOW = "shadow";
const MAKE_SHADOW = `ip netns add ${SHADOW}; ip -n ${SHADOW} link add virbr0 type bridge`;
const IN_BOTH = `sh -c "$1"; exec nsenter --net=/run/netns/${SHADOW} sh -c "$2"`;

/** Flushes tables and deletes their chains; the daemon may put a jump back between the two commands. */
const flushAll = (...tables: readonly string[]): string =>
  tables
    .map((table) => `until iptables-nft -t ${table} -F && iptables-nft -t ${table} -X; do :; done`)
    .join("; ");

const restoreScript = (rules: string, option = ""): string =>
  `iptables-nft-restore ${option} <<'RULES'\n${rules}\nRULES\n`;

/** A saved ruleset without the lines that are kvmnatd's. */
const withoutOurs = (saved: string): string =>
  saved
    .split("\n")
    .filter((line) => !/KVMNATD-|"kvmnatd:@/.test(line))
    .join("\n");

export async function createWalk(world: DaemonWorld, random: Random): Promise<Walk> {
  const model: Model = {
    places: new Map([
      ["web", "web"],
      ["db", "db"],
    ]),
    on: new Set(["web", "db"]),
    ports: new Map([
      [1122, { guest: "web" }],
      [1222, { guest: "db" }],
    ]),
    configIsGood: true,
  };
  let saved: string | undefined;
  /** When our jumps were pushed back: three times in a minute is a fight, which is a story of its own. */
  const pushes = { iptables: [] as number[], nftables: [] as number[] };
  const guest = (): GuestName => random.pick(["web", "db"]);
  const sh = (script: string): Promise<unknown> => world.lab.exec(["sh", "-c", script], { check: false });
  /** Another program changes rules: the same on the host and in the shadow. */
  const changeForeign = (onHost: string, inShadow = onHost): Promise<unknown> =>
    world.lab.exec(["sh", "-c", IN_BOTH, "sh", onHost, inShadow], { check: false });

  async function writeConfig(): Promise<void> {
    model.configIsGood = true;
    const lines = (["web", "db"] as const).map((name) => {
      const own = [...model.ports].filter(([, published]) => published.guest === name);
      const ports = own.map(
        ([port, { allow }]) =>
          `{published: ${port}, target: 22${allow === undefined ? "" : `, allow: [${allow}]`}}`,
      );
      return `  ${name}: {ports: [${ports.join(", ")}]}\n`;
    });
    await world.configure(`guests:\n${lines.join("")}`);
  }

  async function writeLeases(): Promise<void> {
    const rows = [...model.places].map(([name, place]) =>
      leaseRow({ mac: MACS[name], address: ADDRESSES[place] }),
    );
    await world.writeLeases("virbr0", rows);
  }

  async function writeMacs(): Promise<void> {
    const running = [...model.on].map((name) => [name, [MACS[name]]] as const);
    await world.writeMacs("virbr0", Object.fromEntries(running));
  }

  async function bringAllUp(): Promise<void> {
    for (const [name, port] of [
      ["web", 1122],
      ["db", 1222],
    ] as const) {
      model.on.add(name);
      if (!model.places.has(name)) model.places.set(name, freePlace() ?? name);
      model.ports.set(port, { guest: name });
    }
    await writeMacs();
    await writeLeases();
    await writeConfig();
  }

  function freePlace(): Place | undefined {
    return (["web", "db"] as const).find((place) => ![...model.places.values()].includes(place));
  }

  function mayPush(jump: keyof typeof pushes): boolean {
    pushes[jump] = pushes[jump].filter((at) => Date.now() - at < 61_000);
    return pushes[jump].length < 2;
  }

  async function push(jump: keyof typeof pushes, onHost: string, inShadow = onHost): Promise<void> {
    pushes[jump].push(Date.now());
    await changeForeign(onHost, inShadow);
  }

  async function restart(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    if (!model.configIsGood) await writeConfig();
    await daemon.kill(signal);
    await daemon.exited;
    daemon = await world.start();
    // Until it has read the config, a wrong one ends it.
    await daemon.waitForLine(/"event":"config-loaded"/);
  }

  const steps: Readonly<Record<string, () => Promise<unknown>>> = {
    "guests change places": async () => {
      const [web, db] = [model.places.get("web"), model.places.get("db")];
      model.places.clear();
      if (db !== undefined) model.places.set("web", db);
      if (web !== undefined) model.places.set("db", web);
      await writeLeases();
    },
    "lease vanishes": async () => {
      model.places.delete(guest());
      await writeLeases();
    },
    "guest takes a lease": async () => {
      const name = guest();
      const free = freePlace();
      if (model.places.has(name) || free === undefined) return;
      model.places.set(name, free);
      await writeLeases();
    },
    "domain stops or starts": async () => {
      const name = guest();
      if (!model.on.delete(name)) model.on.add(name);
      await writeMacs();
    },
    publish: async () => {
      const allow = random.pick([undefined, CLIENT, CLIENT_SECOND]);
      model.ports.set(random.pick(PORTS), { guest: guest(), ...(allow === undefined ? {} : { allow }) });
      await writeConfig();
    },
    unpublish: async () => {
      model.ports.delete(random.pick(PORTS));
      await writeConfig();
    },
    "config that is wrong": async () => {
      model.configIsGood = false;
      await writeFile(world.config, random.pick(["", "guests: [", "guests: {web: {ports: [70000:1]}}\n"]));
    },
    SIGHUP: () => daemon.kill("SIGHUP"),
    "SIGSTOP, SIGCONT": async () => {
      await daemon.kill("SIGSTOP");
      await daemon.kill("SIGCONT");
    },
    "kill -9, start": () => restart("SIGKILL"),
    "stop, start": () => restart("SIGTERM"),
    "FORWARD flushed": () => changeForeign("iptables-nft -F FORWARD"),
    "PREROUTING flushed": () => changeForeign("iptables-nft -t nat -F PREROUTING"),
    "chain of ours flushed": () =>
      sh(`iptables-nft ${random.pick(["-F KVMNATD-FWD", "-t nat -F KVMNATD-DNAT"])}`),
    "rule put into a chain of ours": () => sh("iptables-nft -I KVMNATD-FWD -j DROP"),
    "filter and nat flushed, chains too": () => changeForeign(flushAll("filter", "nat")),
    "flush ruleset": () => changeForeign("nft flush ruleset"),
    "policy of FORWARD": () => changeForeign(`iptables-nft -P FORWARD ${random.pick(["DROP", "ACCEPT"])}`),
    "foreign rule": () =>
      changeForeign(
        random.pick([
          `iptables-nft -I FORWARD -s 192.0.2.${random.below(250)} -j DROP -m comment --comment 'mine: "keep"'`,
          `iptables-nft -A INPUT -s 192.0.2.${random.below(250)} -j DROP`,
          `iptables-nft -t nat -A PREROUTING -p tcp --dport ${8000 + random.below(99)} -j REDIRECT --to-ports 80`,
        ]),
      ),
    "libvirt makes its rules": async () => {
      if (!mayPush("iptables")) return;
      const there = await world.rules("filter");
      if (!there.includes(":LIBVIRT_FWI"))
        await push("iptables", restoreScript(libvirtRules(NETWORKS), "--noflush"));
    },
    "reject put first": async () => {
      if (mayPush("iptables")) await push("iptables", "iptables-nft -I FORWARD -o virbr0 -j REJECT");
    },
    "reject taken away": () => changeForeign("iptables-nft -D FORWARD -o virbr0 -j REJECT"),
    "libvirt takes nftables": () =>
      changeForeign(`nft delete table ip libvirt_network; nft -f - <<'NFT'\n${LIBVIRT_TABLE}\nNFT\n`),
    "libvirt leaves nftables": () => changeForeign("nft delete table ip libvirt_network"),
    "jump put first in libvirt's table": async () => {
      if (mayPush("nftables"))
        await push("nftables", "nft insert rule ip libvirt_network forward counter jump guest_input");
    },
    "our chain in libvirt's table flushed": () => sh("nft flush chain ip libvirt_network kvmnatd"),
    "rule put into our chain in libvirt's table": () =>
      sh("nft insert rule ip libvirt_network kvmnatd counter drop"),
    "Docker starts": () => changeForeign(DOCKER),
    "firewalld starts": () => changeForeign(FIREWALLD),
    "rule in the other variant": () =>
      changeForeign(`iptables-legacy -A FORWARD -s 192.0.2.${random.below(250)} -j DROP`),
    "other variant flushed": () => changeForeign("iptables-legacy -F"),
    "ruleset saved": async () => {
      saved = (await world.lab.exec(["iptables-nft-save"])).stdout;
    },
    "ruleset restored": async () => {
      const text = saved;
      if (text !== undefined && mayPush("iptables"))
        await push("iptables", restoreScript(text), restoreScript(withoutOurs(text)));
    },
  };
  const names = Object.keys(steps) as [string, ...string[]];
  await writeConfig();
  await world.lab.exec(["sh", "-ec", MAKE_SHADOW]);
  await world.lab.exec(["iptables-nft-restore"], { netns: SHADOW, input: libvirtRules(NETWORKS) });
  let daemon = await world.start();
  await daemon.waitForLine(/"event":"config-loaded"/);
  return {
    model,
    daemon: () => daemon,
    foreign: () => readForeign(world, SHADOW),
    step: async () => {
      const name = random.pick(names);
      await steps[name]?.();
      return name;
    },
    calm: async () => {
      if (!model.configIsGood) await writeConfig();
      if (random.below(2) === 0) await bringAllUp();
    },
  };
}
