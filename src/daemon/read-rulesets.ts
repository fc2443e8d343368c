import type { Family } from "../net/address.ts";
import type { Actual, LibvirtTable, Variant } from "../rules/ruleset.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host, Iptables } from "../host-interface.ts";

/** The ruleset of one family in one variant of iptables; the variant in use has libvirt's own table too. */
export interface BackendRuleset {
  readonly family: Family;
  readonly tool: Iptables;
  readonly actual: Actual;
}

const FAMILIES: readonly Family[] = [4, 6];

/** The rulesets of one family. */
export interface FamilyRulesets {
  readonly family: Family;
  /** The variant in use, then the other one if it has any rules; empty when the rules cannot be read. */
  readonly backends: readonly BackendRuleset[];
  /** Why the rules cannot be read. */
  readonly error: KvmnatdError | undefined;
}

export interface RulesetReader {
  /** Reads the rules of both families. A family that cannot be read stops neither the other one nor the pass. */
  readAll(): Promise<readonly FamilyRulesets[]>;
  /**
   * Reads iptables' rules of these families again.
   * @param before what was read last; nothing else has changed since then
   */
  reread(
    before: readonly FamilyRulesets[],
    families: ReadonlySet<Family>,
  ): Promise<readonly FamilyRulesets[]>;
}

/**
 * @param tool the variant of iptables in use
 * @param usedVariants variants that kvmnatd has used before
 */
export function createRulesetReader(
  host: Host,
  tool: Iptables,
  usedVariants: ReadonlySet<Variant>,
): RulesetReader {
  const source: Source = { host, tool, usedVariants };
  return {
    readAll: () => {
      const tables = host.readLibvirtTables();
      return Promise.all(
        FAMILIES.map((family) =>
          readFamily(
            source,
            family,
            tables.then((each) => each.get(family)),
          ),
        ),
      );
    },
    reread: (before, families) =>
      Promise.all(
        before.map(async (each) => {
          const [used] = each.backends;
          if (used === undefined || !families.has(each.family)) return each;
          return readFamily(source, each.family, Promise.resolve(used.actual.libvirt));
        }),
      ),
  };
}

/** The rulesets of both families in the variant in use, and in the other one if it has rules. */
export interface Kernel {
  /** Undefined when it cannot be found out; then no family is read. */
  readonly tool: Iptables | undefined;
  readonly families: readonly FamilyRulesets[];
  /** The rules of the variant in use. */
  readonly actual: ReadonlyMap<Family, Actual>;
}

/**
 * Finds the variant in use and reads the rules. Every failure is in the result.
 * @param usedVariants variants that kvmnatd has used before
 */
export async function readKernel(
  host: Host,
  setting: Variant | "auto",
  usedVariants: ReadonlySet<Variant>,
): Promise<Kernel> {
  let tool: Iptables;
  try {
    tool = await host.chooseIptables(setting);
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    const families = FAMILIES.map((family): FamilyRulesets => ({ family, backends: [], error }));
    return { tool: undefined, families, actual: new Map() };
  }
  const families = await createRulesetReader(host, tool, usedVariants).readAll();
  const actual = families.flatMap(({ family, backends: [used] }) =>
    used === undefined ? [] : [[family, used.actual] as const],
  );
  return { tool, families, actual: new Map(actual) };
}

/** Where rules are read from. */
interface Source {
  readonly host: Host;
  readonly tool: Iptables;
  readonly usedVariants: ReadonlySet<Variant>;
}

async function readFamily(
  source: Source,
  family: Family,
  libvirt: Promise<LibvirtTable | undefined>,
): Promise<FamilyRulesets> {
  try {
    return { family, backends: await readVariants(source, family, libvirt), error: undefined };
  } catch (error) {
    if (error instanceof KvmnatdError) return { family, backends: [], error };
    throw error;
  }
}

async function readVariants(
  { host, tool, usedVariants }: Source,
  family: Family,
  libvirt: Promise<LibvirtTable | undefined>,
): Promise<readonly BackendRuleset[]> {
  const [iptables, other, table] = await Promise.all([
    host.readRules(tool, family),
    host.otherIptables(tool, family, usedVariants),
    libvirt,
  ]);
  const used: BackendRuleset = { family, tool, actual: withLibvirt(iptables, table) };
  if (other === undefined) return [used];
  try {
    return [used, { family, tool: other, actual: await host.readRules(other, family) }];
  } catch (error) {
    // A variant that is not in use and cannot be read does not matter.
    if (error instanceof KvmnatdError) return [used];
    throw error;
  }
}

/** Reads the rules of one variant again, and libvirt's table if there is one. */
export async function rereadRules(host: Host, { tool, family, actual }: BackendRuleset): Promise<Actual> {
  const [iptables, libvirt] = await Promise.all([
    host.readRules(tool, family),
    actual.libvirt === undefined ? undefined : host.readLibvirtTables(),
  ]);
  return withLibvirt(iptables, libvirt?.get(family));
}

function withLibvirt(actual: Actual, libvirt: LibvirtTable | undefined): Actual {
  return libvirt === undefined ? actual : { ...actual, libvirt };
}
