import type { ViteUserConfig } from "vitest/config";

// Few and heavy: each file makes a small host of its own.
const real = { testTimeout: 60_000, hookTimeout: 60_000, globalSetup: ["test/support/build.ts"] };

const config: ViteUserConfig = {
  test: {
    maxWorkers: 2,
    projects: [
      { extends: true, test: { name: "core", include: ["test/{unit,property,scenarios}/**/*.test.ts"] } },
      { extends: true, test: { name: "kernel", include: ["test/kernel/**/*.test.ts"], ...real } },
      { extends: true, test: { name: "libvirt", include: ["test/libvirt/**/*.test.ts"], ...real } },
      { extends: true, test: { name: "neighbours", include: ["test/neighbours/**/*.test.ts"], ...real } },
      { extends: true, test: { name: "system", include: ["test/system/**/*.test.ts"], ...real } },
    ],
  },
};

export default config;
