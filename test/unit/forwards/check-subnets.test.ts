import { expect, it } from "vitest";
import type { Network } from "../../../src/leases/network.ts";
import { findAddressesOutsideNetworks } from "../../../src/forwards/check-subnets.ts";
import { guest, ip, network, portMap } from "../../support/build-values.ts";

const UP = network();
const DOWN = network({ bridge: "virbr1", subnets: [] });

function judge(
  address: string,
  networks: readonly Network[],
  { on = undefined as string | undefined, areAllKnown = true } = {},
): string {
  const map = portMap([guest("printer", { kind: "address", address: ip(address) }, [{}], on)]);
  const { diagnostics, isCertain } = findAddressesOutsideNetworks(map, networks, areAllKnown);
  const [diagnostic] = diagnostics;
  return diagnostic === undefined ? (isCertain ? "served" : "nobody knows") : diagnostic.message;
}

const OUTSIDE = "192.168.22.50";

it.each([
  ["in a network's subnet", judge("192.168.122.50", [UP]), /^served$/],
  ["in one, while another is down", judge("192.168.122.50", [UP, DOWN]), /^served$/],
  ["in none, all are up", judge(OUTSIDE, [UP]), /^192\.168\.22\.50 can be no guest's: outside virbr0's/],
  ["in none, but one is down that it may belong to", judge(OUTSIDE, [UP, DOWN]), /^nobody knows$/],
  ["in none, and there are none yet", judge(OUTSIDE, []), /^nobody knows$/],
  ["in none that is known", judge(OUTSIDE, [UP], { areAllKnown: false }), /^nobody knows$/],
  ["not in its own, whatever else is down", judge(OUTSIDE, [UP, DOWN], { on: "virbr0" }), /outside virbr0's/],
  [
    "not in its own, whatever else there is",
    judge(OUTSIDE, [UP], { on: "virbr0", areAllKnown: false }),
    /outside/,
  ],
  ["of a network of its own that is down", judge(OUTSIDE, [UP, DOWN], { on: "virbr1" }), /^nobody knows$/],
  ["of a network of its own that is not there", judge(OUTSIDE, [UP], { on: "virbr7" }), /^nobody knows$/],
  ["the bridge's own, whatever is down", judge("192.168.122.1", [UP, DOWN]), /it is virbr0's own address/],
  ["the broadcast address", judge("192.168.122.255", [UP, DOWN]), /broadcast/],
])("%s", (_what, verdict, expected) => {
  expect(verdict).toMatch(expected);
});
