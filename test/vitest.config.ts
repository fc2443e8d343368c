import { resolve } from "node:path";
import type { ViteUserConfig } from "vitest/config";
import { LongestFirst } from "./support/longest-first.ts";

// Few and heavy: each file makes a small host of its own.
const real = { hookTimeout: 400_000, globalSetup: ["test/support/build.ts"] };
/** These install them. */
const packaged = { ...real, globalSetup: ["test/support/build.ts", "test/support/packages.ts"] };

/** Tests of the folders that have no effects (test/unit/layout.test.ts). */
const PURE =
  "{property,scenarios,unit/{config,conntrack,forwards,history,identity,leases,libvirt,log,rules,status}}";

const config: ViteUserConfig = {
  test: {
    // More than processors: most of them wait for something most of the time.
    maxWorkers: 4,
    sequence: { sequencer: LongestFirst },
    // Minutes of properties, on a machine that may have other things to do.
    testTimeout: 400_000,
    // What is waited for comes at once, or on a slow machine when it can.
    expect: { poll: { timeout: 120_000 } },
    // Thousands of starts of the program, a third of each for reading it.
    env: { NODE_COMPILE_CACHE: resolve(import.meta.dirname, "../node_modules/.cache/kvmnatd-test") },
    projects: [
      // Without a process for each file: what is pure leaves nothing behind, and starting them costs half of the time.
      {
        extends: true,
        test: { name: "core", include: [`test/${PURE}/**/*.test.ts`], isolate: false },
      },
      {
        extends: true,
        test: { name: "unit", include: ["test/unit/**/*.test.ts"], exclude: [`test/${PURE}/**`] },
      },
      { extends: true, test: { name: "kernel", include: ["test/kernel/**/*.test.ts"], ...real } },
      { extends: true, test: { name: "libvirt", include: ["test/libvirt/**/*.test.ts"], ...real } },
      { extends: true, test: { name: "neighbours", include: ["test/neighbours/**/*.test.ts"], ...real } },
      { extends: true, test: { name: "system", include: ["test/system/**/*.test.ts"], ...packaged } },
      { extends: true, test: { name: "packages", include: ["test/packages/**/*.test.ts"], ...packaged } },
      {
        extends: true,
        test: { name: "container", include: ["test/container/**/*.test.ts"], hookTimeout: 400_000 },
      },
    ],
  },
};

export default config;
