import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createNeighbourhood } from "../support/neighbours.ts";
import type { Neighbourhood } from "../support/neighbours.ts";

const EVENTS = [
  ["enable", "ufw --force enable", "DROP"],
  ["a rule comes", "ufw allow 8080/tcp", "DROP"],
  ["reload", "ufw reload", "DROP"],
  ["disable", "ufw --force disable", "ACCEPT"],
] as const;

describe("beside ufw", () => {
  let hood: Neighbourhood;

  beforeAll(async () => {
    hood = await createNeighbourhood();
  });
  beforeEach(({ onTestFailed }) => onTestFailed(() => hood.dump()));
  afterAll(() => hood.close());

  it.each(EVENTS)("%s", async (name, event, policy) => {
    const { theirs, ...outcome } = await hood.play(name, event);
    expect(outcome).toEqual({ byHand: "answers", kept: "answers", repaired: false });
    expect(theirs.kept).toEqual(theirs.byHand);
    expect(theirs.kept).toMatchObject({ said: 0 });
    expect(theirs.kept.rules).toContain(`:FORWARD ${policy}\n`);
    expect(theirs.kept.rules).toContain("-A FORWARD -j ufw-before-forward\n");
  });
});
