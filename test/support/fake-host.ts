import type { Family } from "../../src/net/address.ts";
import type { StaleFlows } from "../../src/conntrack/stale-flows.ts";
import type { Lease, DomainMacs } from "../../src/leases/lease.ts";
import { CommandError } from "../../src/errors.ts";
import type { Host, LeaseFiles } from "../../src/host-interface.ts";
import { ip, network, NOW } from "./build-values.ts";
import { createFakeIptables } from "./fake-iptables.ts";
import type { FakeIptables } from "./fake-iptables.ts";

/** A host whose faults are made to measure. IPv4 alone; what the real programs do is the kernel tests' affair. */
export interface FakeHost extends Host {
  /** Both clocks read it: no test needs them to differ. */
  nowMs: number;
  /** Moves both clocks and ends the sleeps that are over by then, in their order. */
  advance(ms: number): Promise<void>;
  config: string;
  leases: readonly Lease[];
  domains: readonly DomainMacs[];
  /** How libvirt's folder is found; where it is not read there are no files. */
  folder: LeaseFiles["folder"];
  /** When `config` was last written, epoch ms. */
  configChangedAtMs: number;
  /** What `conntrack -L` prints. */
  flows: readonly string[];
  readonly removed: StaleFlows[];
  /** Whether virbr0 is. */
  isUp: boolean;
  readonly rules: FakeIptables;
  readonly sysctls: Map<string, string>;
  /** Why a call fails, as long as it stands here. */
  readonly failing: Map<FailingCall, CommandError>;
  /** What iptables-restore refuses: tables before it are done already. */
  refused?: RegExp;
}

type FailingCall = "readLinks" | "readRules" | "restoreRules" | "listFlows";

interface Sleeper {
  readonly atMs: number;
  readonly wake: () => void;
}

export function createFakeHost(config: string, rules = ""): FakeHost {
  const sleepers = new Set<Sleeper>();
  const fake: FakeHost = {
    nowMs: NOW,
    advance: async (ms) => {
      const endMs = fake.nowMs + ms;
      for (;;) {
        // Everything else on this host takes microtasks.
        await new Promise((done) => void setImmediate(done));
        const [next] = [...sleepers]
          .filter(({ atMs }) => atMs <= endMs)
          .toSorted((one, other) => one.atMs - other.atMs);
        if (next === undefined) break;
        fake.nowMs = Math.max(fake.nowMs, next.atMs);
        next.wake();
      }
      fake.nowMs = endMs;
    },
    config,
    leases: [],
    domains: [],
    folder: "read",
    configChangedAtMs: 0,
    flows: [],
    removed: [],
    isUp: true,
    rules: createFakeIptables(rules),
    sysctls: new Map([["net/ipv4/ip_forward", "1"]]),
    failing: new Map(),
    configPath: "kvmnatd.yaml",
    dnsmasqDir: "/var/lib/libvirt/dnsmasq",
    now: () => fake.nowMs,
    monotonicMs: () => fake.nowMs,
    sleep: async (ms, signal) => {
      // Without a signal nothing else happens meanwhile.
      if (signal === undefined) fake.nowMs += ms;
      else await sleepUntil(fake.nowMs + ms, signal);
    },
    readConfig: () =>
      Promise.resolve({ text: fake.config, changedAtMs: fake.configChangedAtMs, untrusted: undefined }),
    readLeaseFiles: () =>
      Promise.resolve({
        bridges:
          fake.folder === "read"
            ? [{ bridge: "virbr0", leases: fake.leases, domains: fake.domains, diagnostics: [] }]
            : [],
        folder: fake.folder,
        diagnostics: [],
      }),
    readRunningDomains: () => Promise.resolve(undefined),
    readLinks: async () => {
      await fail("readLinks");
      const { bridge, subnets } = network();
      const own = subnets.map((subnet) => subnet.own);
      const addresses = new Map([
        ["eth0", [ip("198.51.100.1")]],
        [bridge, own],
      ]);
      const up = new Map(fake.isUp ? [[bridge, subnets]] : []);
      return { addresses, indexes: new Map(), subnets: up };
    },
    probeNeighbours: () => Promise.resolve(new Map()),
    readListeners: () => Promise.resolve([]),
    chooseIptables: () => Promise.resolve({ variant: "nft", infix: "" }),
    otherIptables: () => Promise.resolve(undefined),
    readRules: async (_tool, family) => {
      await fail("readRules");
      return family === 4 ? fake.rules.read() : createFakeIptables().read();
    },
    readLibvirtTables: () => Promise.resolve(new Map()),
    runNft: () => Promise.resolve(),
    restoreRules: async (_tool, _family, { input: text }) => {
      await fail("restoreRules");
      const { refused } = fake;
      if (refused === undefined || !refused.test(text)) return fake.rules.restore(text);
      fake.rules.restore(text.slice(0, text.lastIndexOf("*", text.search(refused))));
      throw commandError("iptables-restore", `refused: ${String(refused)}`);
    },
    listFlows: async (family: Family) => {
      await fail("listFlows");
      return family === 4 ? fake.flows : [];
    },
    removeFlows: (stale) => Promise.resolve(fake.removed.push(stale)),
    readSysctl: (path) => Promise.resolve(fake.sysctls.get(path)),
    writeSysctl: (path, value) => Promise.resolve(void fake.sysctls.set(path, value)),
    writeStatus: () => Promise.resolve(),
    isCron: () => true,
  };
  function sleepUntil(atMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const sleeper: Sleeper = {
        atMs,
        wake: () => {
          sleepers.delete(sleeper);
          resolve();
        },
      };
      if (signal.aborted) resolve();
      else sleepers.add(sleeper);
      signal.addEventListener("abort", sleeper.wake, { once: true });
    });
  }
  async function fail(call: FailingCall): Promise<void> {
    const error = fake.failing.get(call);
    if (error !== undefined) throw await Promise.resolve(error);
  }
  return fake;
}

/** A program that ended with exit code 2. */
export function commandError(program: string, message: string): CommandError {
  const details = { argv: [program], exitCode: 2, isMissing: false, stderr: message };
  return new CommandError(`${program}: ${message}`, { ...details, cause: undefined });
}
