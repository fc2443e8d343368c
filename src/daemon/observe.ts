import type { Family } from "../net/address.ts";
import { buildDesired } from "../rules/desired.ts";
import type { ProbeResults, Incumbent } from "../identity/lookup.ts";
import { readIncumbents, readServedBridges } from "../rules/read-incumbents.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createError } from "../diagnostic.ts";
import type { LeaseFault } from "../leases/parse-lease-files.ts";
import { findNftBridges } from "../rules/libvirt-table.ts";
import type { Network } from "../leases/network.ts";
import type { PortMap } from "../config/port-map.ts";
import { resolveForwards } from "../forwards/resolve.ts";
import type { Resolution } from "../forwards/resolve.ts";
import type { Desired, Variant } from "../rules/ruleset.ts";
import { NOTHING_DESIRED } from "../rules/ruleset.ts";
import { findAddressesOutsideNetworks } from "../forwards/check-subnets.ts";
import type { ConfigError } from "../errors.ts";
import type { Host, Iptables, LeaseFiles, Links } from "../host-interface.ts";
import { createRulesetReader, readKernel } from "./read-rulesets.ts";
import type { FamilyRulesets, Kernel } from "./read-rulesets.ts";
import { mergeBridges, readPortMap, listNetworks } from "./inputs.ts";
import type { ConfigReading, Snapshot } from "./inputs.ts";

/** One family: what should be, and what the kernel has, or why it cannot be read. */
export interface FamilyView extends FamilyRulesets {
  readonly desired: Desired;
}

/** Everything that a pass has read and computed before it changes anything. */
export interface View {
  readonly snapshot: Snapshot;
  readonly networks: readonly Network[];
  readonly links: Links;
  readonly tool: Iptables | undefined;
  readonly incumbents: readonly Incumbent[];
  readonly resolution: Resolution;
  readonly families: readonly FamilyView[];
  readonly configError: ConfigError | undefined;
  readonly leaseDiagnostics: readonly Diagnostic<LeaseFault>[];
  /** Addresses in the config that cannot be a guest's. */
  readonly unserved: readonly Diagnostic<"address-unserved">[];
  /** When the config file is to be read again, epoch ms. */
  readonly lookAgainAtMs: number | undefined;
}

export interface ObservationState {
  readonly snapshot: Snapshot | undefined;
  /** Undefined before the first pass that could read the kernel's rules. */
  readonly incumbents: readonly Incumbent[] | undefined;
  /** As the pass before read them. */
  readonly links: Links | undefined;
  /** Variants of iptables that kvmnatd has used: they may still have owned rules. */
  readonly variants: ReadonlySet<Variant>;
  /** No event has reported a change of the links since the pass before read them. */
  readonly linksAreCurrent: boolean;
  /** Undefined unless only iptables rules can have changed since the pass before. */
  readonly onlyRules: RulesChange | undefined;
}

/** Before the first pass. */
export const NOTHING_OBSERVED: ObservationState = {
  snapshot: undefined,
  incumbents: undefined,
  links: undefined,
  variants: new Set(),
  linksAreCurrent: false,
  onlyRules: undefined,
};

interface RulesChange {
  /** The view of the pass before, which changed nothing. */
  readonly view: View;
  /** The families whose rules can have changed. */
  readonly families: ReadonlySet<Family>;
}

/**
 * read -> resolve -> desired.
 * @param lingers false: a vanished lease ends at once (a single pass cannot come back for it)
 * @throws ConfigError without a good config, KvmnatdError when the host's links cannot be read
 */
export async function observe(host: Host, memory: ObservationState, lingers: boolean): Promise<View> {
  if (memory.onlyRules !== undefined) return observeRules(host, memory.onlyRules, memory.variants);
  const inputs = await readInputs(host, memory, lingers);
  const resolved = await resolveWithProbes(host, memory, inputs);
  return toView(host, inputs, resolved, await inputs.kernel);
}

/** What a pass reads. */
interface Inputs {
  readonly config: ConfigReading;
  /** The port map of this pass. */
  readonly portMap: PortMap;
  readonly files: LeaseFiles;
  readonly running: ReadonlySet<string> | undefined;
  readonly links: Links;
  readonly nowMs: number;
  /** The slowest reading: neighbours are probed meanwhile. */
  readonly kernel: Promise<Kernel>;
}

async function readInputs(host: Host, memory: ObservationState, lingers: boolean): Promise<Inputs> {
  const config = await readPortMap(host, memory.snapshot);
  const portMap = lingers ? config.portMap : { ...config.portMap, lingerMs: 0 };
  const kernel = readKernel(host, portMap.iptables, memory.variants);
  const knownLinks = memory.linksAreCurrent ? memory.links : undefined;
  const [files, running, links] = await Promise.all([
    host.readLeaseFiles(portMap.networks),
    host.readRunningDomains(),
    knownLinks ?? host.readLinks(),
  ]);
  return { config, portMap, files, running, links, nowMs: host.now(), kernel };
}

/** Where the forwards lead, and on what that is based. */
interface Resolved {
  readonly bridges: Snapshot["bridges"];
  readonly networks: readonly Network[];
  readonly incumbents: readonly Incumbent[];
  readonly resolution: Resolution;
}

/** Resolves twice at most: the first result names the probes, the second one uses their results. */
async function resolveWithProbes(host: Host, memory: ObservationState, inputs: Inputs): Promise<Resolved> {
  const { portMap, files, links, running, nowMs, kernel } = inputs;
  const incumbents = memory.incumbents ?? readIncumbents(portMap, (await kernel).actual);
  // While libvirt's folder cannot be read, kvmnatd's own rules show which networks there are.
  const unlisted = files.folder === "read" ? NO_BRIDGES : readServedBridges((await kernel).actual);
  const bridges = mergeBridges(memory.snapshot, files, links, portMap.networks);
  const networks = listNetworks(bridges, links, unlisted);
  const hostAddresses = links.addresses;
  const resolve = (probeResults: ProbeResults): Resolution =>
    resolveForwards(portMap, incumbents, { networks, hostAddresses, nowMs, probeResults, running });
  const first = resolve(new Map());
  const resolution = first.probes.length === 0 ? first : resolve(await host.probeNeighbours(first.probes));
  return { bridges, networks, incumbents, resolution };
}

const NO_BRIDGES: ReadonlySet<string> = new Set();

function toView(
  host: Host,
  { config, portMap, files, links }: Inputs,
  { bridges, networks, incumbents, resolution }: Resolved,
  kernel: Kernel,
): View {
  const { configText, warnings } = config;
  const isFolderMissing = files.folder === "missing" && networks.length > 0;
  return {
    snapshot: { portMap: config.portMap, configText, warnings, bridges },
    networks,
    links,
    tool: kernel.tool,
    incumbents,
    resolution,
    families: kernel.families.map((each) => toFamilyView(each, portMap, resolution, networks)),
    configError: config.error,
    leaseDiagnostics: [
      ...files.diagnostics,
      ...(isFolderMissing ? [describeMissingFolder(host.dnsmasqDir)] : []),
      ...files.bridges.flatMap((each) => each.diagnostics),
    ],
    unserved: findAddressesOutsideNetworks(portMap, networks, files.folder === "read"),
    lookAgainAtMs: config.lookAgainAtMs,
  };
}

/** A change of the rules alone does not concern the guests: where the forwards lead is as it was. */
async function observeRules(
  host: Host,
  { view, families }: RulesChange,
  known: ReadonlySet<Variant>,
): Promise<View> {
  const { snapshot, resolution, networks, tool } = view;
  if (tool === undefined) return view;
  const read = await createRulesetReader(host, tool, known).reread(view.families, families);
  return {
    ...view,
    families: read.map((each) => toFamilyView(each, snapshot.portMap, resolution, networks)),
  };
}

/** libvirt creates its folder with its first network. Later a missing folder is the wrong folder, or was deleted. */
function describeMissingFolder(file: string): Diagnostic<"lease-folder"> {
  const message =
    "does not exist: what was known of its networks stays in force, and no lease is followed; " +
    "is it libvirt's dnsmasq folder (--dnsmasq-dir)?";
  return createError("lease-folder", message, { file });
}

function toFamilyView(
  read: FamilyRulesets,
  portMap: PortMap,
  { forwards }: Resolution,
  networks: readonly Network[],
): FamilyView {
  const bridges = findNftBridges(read.backends[0]?.actual);
  const desired = buildDesired({ portMap, forwards, networks }, read.family, bridges);
  return forgiveUnused({ ...read, desired });
}

/** Without desired rules, unreadable IPv6 rules are not an error: a host without IPv6 has no ip6tables. */
function forgiveUnused(view: FamilyView): FamilyView {
  if (view.error === undefined || view.family === 4 || view.desired !== NOTHING_DESIRED) return view;
  return { ...view, error: undefined };
}
