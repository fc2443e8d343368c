import type { Family, HostAddresses } from "../net/address.ts";
import { buildDesired } from "../rules/desired.ts";
import type { ProbeResults, Incumbent, NeighbourProbe } from "../identity/lookup.ts";
import { readIncumbents, readServedBridges } from "../rules/read-incumbents.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createError } from "../diagnostic.ts";
import type { LeaseFault } from "../leases/parse-lease-files.ts";
import { findNftBridges } from "../rules/libvirt-table.ts";
import type { Network } from "../leases/network.ts";
import type { PortMap } from "../config/port-map.ts";
import { resolveForwards } from "../forwards/resolve.ts";
import type { Resolution } from "../forwards/resolve.ts";
import type { Actual, Desired, Variant } from "../rules/ruleset.ts";
import { NOTHING_DESIRED } from "../rules/ruleset.ts";
import { findAddressesOutsideNetworks } from "../forwards/check-subnets.ts";
import { KvmnatdError } from "../errors.ts";
import type { ConfigError } from "../errors.ts";
import type { Host, Iptables, Links } from "../host-interface.ts";
import { createRulesetReader, FAMILIES } from "./read-rulesets.ts";
import type { FamilyRulesets } from "./read-rulesets.ts";
import { mergeBridges, readPortMap, knownBridges } from "./inputs.ts";
import type { RejectedConfig, Snapshot } from "./inputs.ts";

/** One family: what should be, and what the kernel has, or why it cannot be read. */
export interface FamilyView extends FamilyRulesets {
  readonly desired: Desired;
}

/** Everything that a pass has read, and what follows from it. Nothing is changed yet. */
export interface View {
  readonly snapshot: Snapshot;
  readonly networks: readonly Network[];
  readonly links: Links;
  readonly addresses: HostAddresses;
  readonly tool: Iptables | undefined;
  readonly incumbents: readonly Incumbent[];
  readonly resolution: Resolution;
  readonly families: readonly FamilyView[];
  readonly configError?: ConfigError;
  readonly refused?: RejectedConfig;
  readonly leaseDiagnostics: readonly Diagnostic<LeaseFault>[];
  /** Addresses in the config that can be no guest's. */
  readonly unserved: readonly Diagnostic<"address-unserved">[];
  readonly lookAgainAtMs?: number;
}

export interface ObservationState {
  readonly snapshot?: Snapshot;
  readonly refused?: RejectedConfig;
  /** Absent before the first pass that could read the kernel. */
  readonly incumbents?: readonly Incumbent[];
  /** As they were read last. */
  readonly links?: Links;
  /** Variants of iptables that kvmnatd has used: rules of its own may be left there. */
  readonly variants?: ReadonlySet<Variant>;
  /** Nothing has told of a change of the links since then. */
  readonly linksAreCurrent?: boolean;
  /** Nothing but iptables' rules may have changed since the pass before. */
  readonly onlyRules?: RulesChange;
}

interface RulesChange {
  /** What the pass before saw, and left as it was. */
  readonly view: View;
  /** In which families. */
  readonly families: ReadonlySet<Family>;
}

/**
 * read -> resolve -> desired.
 * @param lingers false: what vanished is gone at once (a single pass cannot come back for it)
 * @throws ConfigError without a good config, KvmnatdError when the host's links cannot be read
 */
export async function observe(host: Host, memory: ObservationState, lingers: boolean): Promise<View> {
  if (memory.onlyRules !== undefined) return observeRules(host, memory.onlyRules, memory.variants);
  const config = await readPortMap(host, memory.snapshot, memory.refused);
  const { configText, warnings } = config;
  const portMap = lingers ? config.portMap : { ...config.portMap, lingerMs: 0 };
  const kernelReading = readKernel(host, portMap.iptables, memory.variants ?? new Set());
  const [files, running] = await Promise.all([
    host.readLeaseFiles(portMap.networks),
    host.readRunningDomains(),
  ]);
  const nowMs = host.now();
  // Which networks there are, our own rules still tell: what cannot be read takes no working forward down.
  const unlisted = files.folder === "read" ? NOBODY : readServedBridges((await kernelReading).actual);
  const resolve = (links: Links, incumbents: readonly Incumbent[], answers: ProbeResults): Resolved => {
    const bridges = mergeBridges(memory.snapshot, files, links, portMap.networks);
    const networks = knownBridges(bridges, links, unlisted);
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
    askEarly(host, memory, (known, incumbents) => resolve(known, incumbents, new Map())),
  ]);
  const incumbents = memory.incumbents ?? readIncumbents(portMap, (await kernelReading).actual);
  const answers = await ask(host, resolve(links, incumbents, early).resolution.questions, early);
  const { bridges, networks, resolution } = resolve(links, incumbents, answers);
  const kernel = await kernelReading;
  return {
    snapshot: { portMap: config.portMap, configText, warnings, bridges },
    networks,
    links,
    addresses: links.addresses,
    tool: kernel.tool,
    incumbents,
    resolution,
    families: kernel.families.map((each) => toView(each, portMap, resolution, networks)),
    unserved: findAddressesOutsideNetworks(portMap, networks, files.folder === "read").diagnostics,
    ...(config.error === undefined ? {} : { configError: config.error }),
    ...(config.refused === undefined ? {} : { refused: config.refused }),
    leaseDiagnostics: [
      ...files.diagnostics,
      ...(files.folder === "missing" && networks.length > 0 ? [missingFolder(host.dnsmasqDir)] : []),
      ...files.bridges.flatMap((each) => each.diagnostics),
    ],
    ...(config.lookAgainAtMs === undefined ? {} : { lookAgainAtMs: config.lookAgainAtMs }),
  };
}

/** What somebody does to the rules says nothing of guests: where leases lead is as it was. */
async function observeRules(
  host: Host,
  { view, families }: RulesChange,
  known: ReadonlySet<Variant> = new Set(),
): Promise<View> {
  const { snapshot, resolution, networks, tool } = view;
  if (tool === undefined) return view;
  const read = await createRulesetReader(host, tool, known).reread(view.families, families);
  return { ...view, families: read.map((each) => toView(each, snapshot.portMap, resolution, networks)) };
}

const NOBODY: ReadonlySet<string> = new Set();

/** Before libvirt's first network there is none; afterwards it is another one, or has gone. */
function missingFolder(file: string): Diagnostic<"lease-folder"> {
  const message =
    "does not exist: what was known of its networks stays in force, and no lease is followed; " +
    "is it libvirt's dnsmasq folder (--dnsmasq-dir)?";
  return createError("lease-folder", message, { file });
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
  { links, incumbents }: ObservationState,
  resolve: (links: Links, incumbents: readonly Incumbent[]) => Resolved,
): Promise<ProbeResults> {
  if (links === undefined || incumbents === undefined) return new Map();
  try {
    return await ask(host, resolve(links, incumbents).resolution.questions);
  } catch (error) {
    // The bridge may have gone since; who is still in question is asked again.
    if (error instanceof KvmnatdError) return new Map();
    throw error;
  }
}

async function ask(
  host: Host,
  questions: readonly NeighbourProbe[],
  known: ProbeResults = new Map(),
): Promise<ProbeResults> {
  return questions.length === 0 ? known : new Map([...known, ...(await host.probeNeighbours(questions))]);
}

interface Kernel {
  readonly tool: Iptables | undefined;
  readonly families: readonly FamilyRulesets[];
  readonly actual: ReadonlyMap<Family, Actual>;
}

async function readKernel(
  host: Host,
  setting: Variant | "auto",
  known: ReadonlySet<Variant>,
): Promise<Kernel> {
  let tool: Iptables;
  try {
    tool = await host.chooseIptables(setting);
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    const families = FAMILIES.map((family): FamilyRulesets => ({ family, sides: [], error }));
    return { tool: undefined, families, actual: new Map() };
  }
  const families = await createRulesetReader(host, tool, known).readAll();
  const actual = families.flatMap(({ family, sides: [used] }) =>
    used === undefined ? [] : [[family, used.actual] as const],
  );
  return { tool, families, actual: new Map(actual) };
}

function toView(
  read: FamilyRulesets,
  portMap: PortMap,
  { forwards }: Resolution,
  networks: readonly Network[],
): FamilyView {
  const bridges = findNftBridges(read.sides[0]?.actual);
  const desired = buildDesired({ portMap, forwards, networks }, read.family, bridges);
  return forgiveUnused({ ...read, desired });
}

/** Where nothing is desired, rules that cannot be read are no fault: a host without IPv6 has no ip6tables. */
function forgiveUnused(view: FamilyView): FamilyView {
  if (view.error === undefined || view.family === 4 || view.desired !== NOTHING_DESIRED) return view;
  return { ...view, error: undefined };
}
