import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { DB, leaseRow } from "../../support/world.ts";

const FILE = join(import.meta.dirname, "../../../docs/status.schema.json");
const schema = z.fromJSONSchema(strict(JSON.parse(readFileSync(FILE, "utf8"))) as Record<string, unknown>);

/** Here a field that the schema does not describe is a fault. */
function strict(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(strict);
  const members = Object.entries(value).map(([key, member]) => [key, strict(member)] as const);
  return Object.fromEntries(
    members.map(([key, member]) => [key, key === "additionalProperties" ? false : member]),
  );
}

let world: DaemonWorld;
beforeAll(async () => {
  world = await createDaemonWorld();
});
afterAll(() => world.close());

/** What is wrong with both, by the schema. */
async function faults(): Promise<unknown> {
  const file: unknown = JSON.parse(await readFile(join(world.lab.dir, "run/status.json"), "utf8"));
  return [file, await world.shownStatus()].map((each) => schema.safeParse(each).error?.issues ?? "none");
}

describe("status.json and status --json are what docs/status.schema.json says", () => {
  it("without a daemon", async () => {
    expect(schema.safeParse(await world.shownStatus()).error?.issues).toBeUndefined();
  });

  it("with active, pending and degraded forwards", async () => {
    const daemon = await world.start();
    await world.isWell();
    expect(await faults()).toEqual(["none", "none"]);
    await world.writeLeases("virbr0", [leaseRow(DB, { "expiry-time": 1e15 })]);
    await world.becomes("web", "pending");
    expect(await faults()).toEqual(["none", "none"]);
    await world.configure("guests: 5\n");
    await world.complains("config-invalid");
    expect(await faults()).toEqual(["none", "none"]);
    await world.configure(`listen: [198.51.100.1, "::"]\n${GUESTS}`);
    await expect.poll(async () => (await world.status()).forwards.length).toBe(4);
    expect(await faults()).toEqual(["none", "none"]);
    await daemon.stop();
  });
});
