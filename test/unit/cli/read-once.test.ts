import { beforeEach, describe, expect, it } from "vitest";
import { check } from "../../../src/cli/check.ts";
import type { Context } from "../../../src/cli/context.ts";
import { plan } from "../../../src/cli/plan.ts";
import type { Host } from "../../../src/host-interface.ts";
import { createFakeHost } from "../../support/fake-host.ts";

const paths = { config: "kvmnatd.yaml", dnsmasqDir: "/nowhere", runtimeDir: "/nowhere" };
const READS = ["readConfig", "readLeaseFiles", "readLinks", "readListeners"] as const;
let printed: string[];
let context: Context;
let calls: string[];

/** A host that writes down which of its files and tables are read. */
function countingHost(config: string): Host {
  const host = createFakeHost(config);
  const counting: Host = { ...host };
  for (const name of READS) {
    const read = host[name] as () => Promise<unknown>;
    Object.assign(counting, { [name]: () => (calls.push(name), read()) });
  }
  return counting;
}

beforeEach(() => {
  printed = [];
  calls = [];
  const print = (text: string): void => void printed.push(text);
  context = { paths, json: false, color: false, style: (_, text) => text, print, complain: print };
});

describe.each([
  ["check", check],
  ["plan", plan],
] as const)("kvmnatd %s", (_, command) => {
  it("reads config, lease files, links and listeners once each", async () => {
    await command(context, countingHost("guests: {web: {ports: [1122:22]}}\n"));
    expect(calls.toSorted()).toEqual(READS.toSorted());
  });
});

it("kvmnatd check reports what the host lacks at its place in the file", async () => {
  const config = "networks: [virbr9]\nlisten: eth9\nguests: {web: {ports: [1122:22]}}\n";
  expect(await check(context, countingHost(config))).toBe(0);
  expect(printed.join("\n")).toMatch(
    /kvmnatd\.yaml:2:9: warning: .*eth9[^]*kvmnatd\.yaml:1:12: warning: .*virbr9/,
  );
});
