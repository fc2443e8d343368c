import { expect, it } from "vitest";
import type { Network } from "../../../src/leases/network.ts";
import { findAddressesOutsideNetworks } from "../../../src/forwards/check-subnets.ts";
import { guest, ip, network, portMap } from "../../support/build-values.ts";

const UP = network();
const DOWN = network({ bridge: "virbr1", subnets: [] });

function check(
  address: string,
  networks: readonly Network[],
  { on = undefined as string | undefined, areAllKnown = true } = {},
): string {
  const map = portMap([guest("printer", { kind: "address", address: ip(address) }, [{}], on)]);
  const [diagnostic] = findAddressesOutsideNetworks(map, networks, areAllKnown);
  return diagnostic === undefined ? "accepted" : `${diagnostic.severity}: ${diagnostic.message}`;
}

const OUTSIDE = "192.168.22.50";

it.each([
  ["accepts an address in a network's subnet", check("192.168.122.50", [UP]), /^accepted$/],
  ["accepts it while another network is down", check("192.168.122.50", [UP, DOWN]), /^accepted$/],
  [
    "warns of an address outside every network when all are up",
    check(OUTSIDE, [UP]),
    /^warning: 192\.168\.22\.50 cannot be a guest's address: outside virbr0's/,
  ],
  ["accepts it while a network that it may belong to is down", check(OUTSIDE, [UP, DOWN]), /^accepted$/],
  ["accepts it before the first network exists", check(OUTSIDE, []), /^accepted$/],
  ["accepts it while not all networks are known", check(OUTSIDE, [UP], { areAllKnown: false }), /^accepted$/],
  [
    "warns of an address outside the guest's network, even while another network is down",
    check(OUTSIDE, [UP, DOWN], { on: "virbr0" }),
    /outside virbr0's/,
  ],
  [
    "warns of an address outside the guest's network, even if not all networks are known",
    check(OUTSIDE, [UP], { on: "virbr0", areAllKnown: false }),
    /outside/,
  ],
  [
    "accepts an address of a guest whose network is down",
    check(OUTSIDE, [UP, DOWN], { on: "virbr1" }),
    /^accepted$/,
  ],
  [
    "accepts an address of a guest whose network does not exist",
    check(OUTSIDE, [UP], { on: "virbr7" }),
    /^accepted$/,
  ],
  [
    "warns of the bridge's own address, even while another network is down",
    check("192.168.122.1", [UP, DOWN]),
    /it is virbr0's own address/,
  ],
  ["warns of the broadcast address", check("192.168.122.255", [UP, DOWN]), /broadcast/],
])("%s", (_what, verdict, expected) => {
  expect(verdict).toMatch(expected);
});
