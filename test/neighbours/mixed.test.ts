import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createNeighbourhood } from "../support/neighbours.ts";
import type { Neighbourhood } from "../support/neighbours.ts";

/** An admin's rules in the variant that kvmnatd does not use; packets pass both. */
const RULES = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ADMIN - [0:0]
-A FORWARD -j ADMIN
-A ADMIN -s 203.0.113.0/24 -m comment --comment "mine: KVMNATD" -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
COMMIT
`;

describe.each([
  ["nft", "legacy"],
  ["legacy", "nft"],
] as const)("kvmnatd with iptables-%s beside rules in iptables-%s", (own, other) => {
  let hood: Neighbourhood;

  const events = [
    ["restore", `iptables-${other}-restore <<'RULES'\n${RULES}RULES`],
    ["a rule comes", `iptables-${other} -I FORWARD -p tcp --dport 25 -j REJECT`],
    ["flush", `iptables-${other} -F; iptables-${other} -X; iptables-${other} -t nat -F`],
  ] as const;

  beforeAll(async () => {
    hood = await createNeighbourhood(undefined, own);
  });
  beforeEach(({ onTestFailed }) => onTestFailed(() => hood.dump()));
  afterAll(() => hood.close());

  it.each(events)("%s", async (name, event) => {
    const { theirs, ...outcome } = await hood.play(name, event);
    expect(outcome).toEqual({ byHand: "answers", kept: "answers", repaired: false });
    expect(theirs.kept).toEqual(theirs.byHand);
    expect(theirs.kept).toMatchObject({ said: 0 });
  });
});
