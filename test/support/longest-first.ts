import { existsSync } from "node:fs";
import { relative, resolve } from "node:path";
import { BaseSequencer } from "vitest/node";
import type { TestSpecification } from "vitest/node";

const TOP = resolve(import.meta.dirname, "../..");

/** The files that take longest, longest first. They start first, so that none of them runs alone at the end. */
const LONGEST: readonly string[] = [
  "test/container/dockerfile.test.ts",
  "test/system/service.test.ts",
  "test/kernel/monitor/rule-monitor.test.ts",
  "test/kernel/faults/crash-recovery.test.ts",
  "test/kernel/faults/host-faults.test.ts",
  "test/libvirt/hostile.test.ts",
  "test/libvirt/real-guest.test.ts",
  "test/kernel/packets/packets.test.ts",
  "test/kernel/rules/walk-1.test.ts",
  "test/kernel/rules/walk-2.test.ts",
  "test/kernel/rules/walk-3.test.ts",
  "test/kernel/rules/walk-4.test.ts",
  "test/kernel/identity/identity.test.ts",
  "test/kernel/faults/admin-mistakes.test.ts",
  "test/kernel/rules/foreign-rules.test.ts",
  "test/kernel/rules/daemon.test.ts",
  "test/neighbours/firewalld.test.ts",
  "test/kernel/rules/repair.test.ts",
  "test/kernel/faults/lease-faults.test.ts",
  "test/kernel/commands/metrics.test.ts",
];

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const gone = LONGEST.find((file) => !existsSync(resolve(TOP, file)));
    if (gone !== undefined)
      throw new Error(`test/support/longest-first.ts names ${gone}, which does not exist`);
    // oxlint-disable-next-line unicorn/no-array-sort -- it sorts test files, and is not an array's
    const others = await super.sort(files);
    return others.toSorted((a, b) => rank(a) - rank(b));
  }
}

function rank({ moduleId }: TestSpecification): number {
  const index = LONGEST.indexOf(relative(TOP, moduleId));
  return index === -1 ? LONGEST.length : index;
}
