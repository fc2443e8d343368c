import type { Family } from "../core/address.ts";
import type { Answers, Question } from "../core/choose-lease.ts";
import { buildDesired } from "../core/desired.ts";
import type { Holder } from "../core/find-guest.ts";
import { readHolders } from "../core/holders.ts";
import type { Issue } from "../core/issue.ts";
import { findNftBridges } from "../core/libvirt-table.ts";
import type { HostAddresses, Network } from "../core/network.ts";
import { resolveForwards } from "../core/resolve.ts";
import type { Resolution } from "../core/resolve.ts";
import type { Actual, Desired } from "../core/ruleset.ts";
import { NOTHING_DESIRED } from "../core/ruleset.ts";
import { KvmnatdError } from "../errors.ts";
import type { ConfigError } from "../errors.ts";
import type { Host, Iptables, Links } from "../ports.ts";
import { FAMILIES, readAllSides } from "./kernel.ts";
import type { SidesOrError } from "./kernel.ts";
import { mergeBridges, readPortMap, toNetworks } from "./snapshot.ts";
import type { Snapshot } from "./snapshot.ts";

/** One family: what should be, and what the kernel has, or why it cannot be read. */
export interface FamilyView extends SidesOrError {
  readonly desired: Desired;
}

/** Everything that a pass has read, and what follows from it. Nothing is changed yet. */
export interface View {
  readonly snapshot: Snapshot;
  readonly networks: readonly Network[];
  readonly links: Links;
  readonly addresses: HostAddresses;
  readonly tool: Iptables | undefined;
  readonly incumbents: readonly Holder[];
  readonly resolution: Resolution;
  readonly families: readonly FamilyView[];
  readonly configError?: ConfigError;
  readonly configWarnings: readonly Issue[];
  readonly leaseIssues: readonly Issue[];
  readonly lookAgainAtMs?: number;
}

export interface Memory {
  readonly snapshot?: Snapshot;
  /** Absent before the first pass that could read the kernel. */
  readonly holders?: readonly Holder[];
  /** As they were read last. */
  readonly links?: Links;
  /** Nothing has told of a change of the links since then. */
  readonly linksAreCurrent?: boolean;
}

/**
 * read -> resolve -> desired.
 * @param lingers false: what vanished is gone at once (a single pass cannot come back for it)
 * @throws ConfigError without a good config, KvmnatdError when the host's links cannot be read
 */
export async function observe(host: Host, memory: Memory, lingers: boolean): Promise<View> {
  const config = await readPortMap(host, memory.snapshot);
  const { configText } = config;
  const portMap = lingers ? config.portMap : { ...config.portMap, lingerMs: 0 };
  const kernelReading = readKernel(host, portMap.iptables);
  const [files, running] = await Promise.all([
    host.readLeaseFiles(portMap.networks),
    host.readRunningDomains(),
  ]);
  const nowMs = host.now();
  const resolve = (links: Links, incumbents: readonly Holder[], answers: Answers): Resolved => {
    const bridges = mergeBridges(memory.snapshot, files.bridges, links, portMap.networks);
    const networks = toNetworks(bridges, links);
    const { addresses } = links;
    const resolution = resolveForwards(portMap, networks, addresses, incumbents, nowMs, {
      answers,
      running,
    });
    return { bridges, networks, resolution };
  };
  const { linksAreCurrent = false } = memory;
  const [links, early] = await Promise.all([
    linksAreCurrent && memory.links !== undefined ? memory.links : host.readLinks(),
    askEarly(host, memory, (known, holders) => resolve(known, holders, new Map())),
  ]);
  const incumbents = memory.holders ?? readHolders(portMap, (await kernelReading).actual);
  const answers = await ask(host, resolve(links, incumbents, early).resolution.questions, early);
  const { bridges, networks, resolution } = resolve(links, incumbents, answers);
  const kernel = await kernelReading;
  const families = kernel.families.map((each): FamilyView => ({
    ...each,
    desired: buildDesired(
      portMap,
      resolution.forwards,
      networks,
      each.family,
      findNftBridges(each.sides[0]?.actual),
    ),
  }));
  return {
    snapshot: { portMap: config.portMap, configText, bridges },
    networks,
    links,
    addresses: links.addresses,
    tool: kernel.tool,
    incumbents,
    resolution,
    families: families.map(forgiveUnused),
    ...(config.error === undefined ? {} : { configError: config.error }),
    configWarnings: config.warnings,
    leaseIssues: [...files.issues, ...files.bridges.flatMap((each) => each.issues)],
    ...(config.lookAgainAtMs === undefined ? {} : { lookAgainAtMs: config.lookAgainAtMs }),
  };
}

/** What follows from the leases, once the neighbours have answered. */
interface Resolved {
  readonly bridges: Snapshot["bridges"];
  readonly networks: readonly Network[];
  readonly resolution: Resolution;
}

/** Asks while links and rules are still being read, by what is known of them: the answers come in the same time. */
async function askEarly(
  host: Host,
  { links, holders }: Memory,
  resolve: (links: Links, holders: readonly Holder[]) => Resolved,
): Promise<Answers> {
  if (links === undefined || holders === undefined) return new Map();
  try {
    return await ask(host, resolve(links, holders).resolution.questions);
  } catch (error) {
    // The bridge may have gone since; who is still in question is asked again.
    if (error instanceof KvmnatdError) return new Map();
    throw error;
  }
}

async function ask(host: Host, questions: readonly Question[], known: Answers = new Map()): Promise<Answers> {
  return questions.length === 0 ? known : new Map([...known, ...(await host.askNeighbours(questions))]);
}

interface Kernel {
  readonly tool: Iptables | undefined;
  readonly families: readonly SidesOrError[];
  readonly actual: ReadonlyMap<Family, Actual>;
}

async function readKernel(host: Host, setting: "auto" | "nft" | "legacy"): Promise<Kernel> {
  let tool: Iptables;
  try {
    tool = await host.chooseIptables(setting);
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    const families = FAMILIES.map((family): SidesOrError => ({ family, sides: [], error }));
    return { tool: undefined, families, actual: new Map() };
  }
  const families = await readAllSides(host, tool);
  const actual = families.flatMap(({ family, sides: [used] }) =>
    used === undefined ? [] : [[family, used.actual] as const],
  );
  return { tool, families, actual: new Map(actual) };
}

/** Where nothing is desired, rules that cannot be read are no fault: a host without IPv6 has no ip6tables. */
function forgiveUnused(view: FamilyView): FamilyView {
  if (view.error === undefined || view.family === 4 || view.desired !== NOTHING_DESIRED) return view;
  return { family: view.family, desired: view.desired, sides: [] };
}
