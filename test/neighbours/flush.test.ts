import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createNeighbourhood } from "../support/neighbours.ts";
import type { Neighbourhood } from "../support/neighbours.ts";

const SAVED = "/run/saved-rules";

/** Event, and the effect on a forward made by hand. */
const EVENTS = [
  ["iptables -F", "iptables -F", "nothing"],
  ["iptables -X, refused with rules in the chains", "iptables -X", "answers"],
  ["iptables -t nat -F", "iptables -t nat -F", "nothing"],
  ["iptables -t nat -F PREROUTING", "iptables -t nat -F PREROUTING", "nothing"],
  [
    "a script that flushes all",
    "iptables -F; iptables -t nat -F; iptables -t mangle -F; iptables -P FORWARD ACCEPT",
    "nothing",
  ],
  ["iptables-restore of rules from before", `iptables-restore ${SAVED}`, "nothing"],
  ["nftables.service reload", "nft -f /etc/nftables.conf", "nothing"],
  ["nftables.service stop", "nft flush ruleset", "nothing"],
] as const;

describe("a program that flushes rules", () => {
  let hood: Neighbourhood;

  beforeAll(async () => {
    hood = await createNeighbourhood((place) =>
      place.sh(`iptables -P FORWARD DROP; iptables-save >${SAVED}`),
    );
  });
  beforeEach(({ onTestFailed }) => onTestFailed(() => hood.dump()));
  afterAll(() => hood.close());

  it.each(EVENTS)("does not stop kvmnatd's forward: %s", async (name, event, byHand) => {
    const { theirs, ...outcome } = await hood.play(name, event);
    expect(outcome).toEqual({ byHand, kept: "answers", repaired: byHand === "nothing" });
    expect(theirs.kept).toEqual(theirs.byHand);
  });
});
