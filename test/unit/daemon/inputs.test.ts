import { expect, it } from "vitest";
import { readPortMap } from "../../../src/daemon/inputs.ts";
import { ConfigError } from "../../../src/errors.ts";
import type { Host } from "../../../src/host-interface.ts";
import { NOW } from "../../support/build-values.ts";
import { createFakeHost } from "../../support/fake-host.ts";

const GOOD = "guests: {web: {ports: [1122:22]}}\n";

/** @param texts what is read, one time after the other; @param ageMs since it was written */
function hostWith(texts: readonly string[], ageMs: number): Host {
  const left = [...texts];
  const readConfig: Host["readConfig"] = () =>
    Promise.resolve({ text: left.shift() ?? "", changedAtMs: NOW - ageMs, untrusted: undefined });
  return { ...createFakeHost(""), readConfig };
}

it("a first config that is being saved is read again", async () => {
  const { portMap, configText } = await readPortMap(hostWith(["", GOOD], 0), undefined);
  expect(portMap.guests.map(({ name }) => name)).toEqual(["web"]);
  expect(configText).toBe(GOOD);
});

it.each([
  ["that nobody is writing has no second chance", ["", GOOD], 100],
  ["from the future has none", ["", GOOD], -1],
  ["has a second chance, and no third", ["", "guests: [", GOOD], 0],
])("a bad first config %s", async (_what, texts, ageMs) => {
  await expect(readPortMap(hostWith(texts, ageMs), undefined)).rejects.toThrow(ConfigError);
});
