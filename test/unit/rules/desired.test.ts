import { expect, it } from "vitest";
import { networkOf } from "../../../src/net/address.ts";
import type { Family } from "../../../src/net/address.ts";
import type { PortMap } from "../../../src/config/port-map.ts";
import { buildDesired } from "../../../src/rules/desired.ts";
import { TABLES } from "../../../src/rules/ruleset.ts";
import type { Desired } from "../../../src/rules/ruleset.ts";
import type { ResolvedForward } from "../../../src/forwards/resolved-forward.ts";
import { domain, guest, ip, MAC_A, network, portMap } from "../../support/build-values.ts";

/*
 * State -> the whole desired ruleset as text: first the chains that kvmnatd owns, then its rules in foreign chains, each
 * with the rules that it must precede, then its rules in libvirt's nftables table.
 */

type Wishes = Parameters<typeof guest>[2];

interface State {
  readonly ports?: Wishes;
  readonly reach?: Partial<PortMap["reach"]>;
  readonly hostAddresses?: readonly string[];
  readonly isPending?: boolean;
  readonly isDown?: boolean;
  readonly family?: Family;
  readonly nftBridges?: readonly string[];
}

const ADDRESSES = { 4: "192.168.122.11", 6: "fd00:122::11" } as const;

function build(state: State): Desired {
  const { ports = [{}], reach = {}, hostAddresses = [], family = 4, nftBridges = [] } = state;
  const web = guest("web", domain("web"), ports);
  const map = portMap([web], { reach: { guests: true, host: true, loopback: false, ...reach } });
  const target = { address: ip(ADDRESSES[family]), mac: MAC_A, expiresAtMs: undefined };
  const forwards = web.forwards.map((forward): ResolvedForward => ({
    forward,
    family,
    hostAddresses: hostAddresses.map(ip),
    target: state.isPending === true ? undefined : target,
    why: undefined,
  }));
  const up = network(state.isDown === true ? { subnets: [] } : {});
  return buildDesired({ portMap: map, forwards, networks: [up] }, family, new Set(nftBridges));
}

function print({ chains, jumps, libvirt }: Desired): string {
  const own = TABLES.flatMap((table) =>
    [...chains[table]].flatMap(([chain, rules]) => [
      `${table} ${chain}`,
      ...rules.map((rule) => `  ${rule}`),
    ]),
  );
  const foreign = jumps.map(({ table, chain, rule, mustPrecedeRejectsFor, mustPrecedeAcceptsFor }) => {
    const rejects =
      mustPrecedeRejectsFor === undefined ? "" : `  # before rejects for ${mustPrecedeRejectsFor.join(", ")}`;
    const accepts =
      mustPrecedeAcceptsFor === undefined ? "" : `  # before accepts for ${mustPrecedeAcceptsFor}`;
    return `${table} ${chain}: ${rule}${rejects}${accepts}`;
  });
  return [...own, ...foreign, ...libvirt.map((rule) => `libvirt: ${rule}`)].join("\n");
}

const WEB = '-m comment --comment "kvmnatd:web 52:54:00:6c:3c:01" -j DNAT --to-destination';
const NET = '-m comment --comment "kvmnatd:@virbr0"';
const JUMP = '-m comment --comment "kvmnatd:@jump"';

const FORWARD_RULES = [
  "filter KVMNATD-FWD",
  `  -d 192.168.122.0/24 -o virbr0 -m conntrack --ctstate DNAT ${NET} -j ACCEPT`,
  `  -s 192.168.122.0/24 -i virbr0 -m conntrack --ctstate DNAT --ctdir REPLY ${NET} -j ACCEPT`,
];
const HAIRPIN = `  -s 192.168.122.0/24 -d 192.168.122.0/24 -o virbr0 -m conntrack --ctstate DNAT ${NET} -j MASQUERADE`;
const FORWARD_JUMP = `filter FORWARD: ${JUMP} -j KVMNATD-FWD  # before rejects for virbr0`;
const PREROUTING = `nat PREROUTING: -m addrtype --dst-type LOCAL ${JUMP} -j KVMNATD-DNAT`;
const OUTPUT = `nat OUTPUT: ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL ${JUMP} -j KVMNATD-DNAT`;
const POSTROUTING = `nat POSTROUTING: ${JUMP} -j KVMNATD-SNAT`;
const JUMPS = [FORWARD_JUMP, PREROUTING, OUTPUT, POSTROUTING];
const ruleset = (...dnat: readonly string[]): readonly string[] => [
  ...FORWARD_RULES,
  "nat KVMNATD-DNAT",
  ...dnat.map((rule) => `  ${rule}`),
  "nat KVMNATD-SNAT",
  HAIRPIN,
  ...JUMPS,
];

it.each<readonly [string, State, readonly string[]]>([
  ["one port at every local address", {}, ruleset(`-p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`)],
  [
    "ranges that keep and shift their ports",
    {
      ports: [
        { published: [8000, 8010], target: [8000, 8010] },
        { published: [30_000, 30_099], target: [40_000, 40_099], protocol: "udp" },
      ],
    },
    ruleset(
      `-p tcp -m tcp --dport 8000:8010 ${WEB} 192.168.122.11`,
      `-p udp -m udp --dport 30000:30099 ${WEB} 192.168.122.11:40000-40099/30000`,
    ),
  ],
  [
    "one rule per host address and source, the family's sources only",
    {
      hostAddresses: ["192.168.1.100", "192.168.1.101"],
      ports: [{ allow: ["10.0.0.0/8", "203.0.113.7/32", "fd00::/8"] }],
    },
    ruleset(
      `-s 10.0.0.0/8 -d 192.168.1.100/32 -p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`,
      `-s 203.0.113.7/32 -d 192.168.1.100/32 -p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`,
      `-s 10.0.0.0/8 -d 192.168.1.101/32 -p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`,
      `-s 203.0.113.7/32 -d 192.168.1.101/32 -p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`,
    ),
  ],
  [
    "no source when one of the sources is every address",
    { ports: [{ allow: ["10.0.0.0/8", "0.0.0.0/0"] }] },
    ruleset(`-p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`),
  ],
  ["the constant rules alone while the guest is pending", { isPending: true }, ruleset()],
  [
    "no way in for guests and for the host without reach",
    { reach: { guests: false, host: false } },
    [
      ...FORWARD_RULES,
      "nat KVMNATD-DNAT",
      `  -i virbr0 ${NET} -j RETURN`,
      `  -p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`,
      FORWARD_JUMP,
      PREROUTING,
    ],
  ],
  [
    "127.0.0.1, guarded, with reach.loopback",
    { reach: { loopback: true } },
    [
      ...FORWARD_RULES,
      "nat KVMNATD-DNAT",
      `  -p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`,
      "nat KVMNATD-SNAT",
      HAIRPIN,
      HAIRPIN.replace("-s 192.168.122.0/24", "-s 127.0.0.0/8"),
      FORWARD_JUMP,
      PREROUTING,
      OUTPUT,
      `nat OUTPUT: -d 127.0.0.1/32 ${JUMP} -j KVMNATD-DNAT`,
      POSTROUTING,
      'raw PREROUTING: -d 127.0.0.0/8 -i virbr0 -m comment --comment "kvmnatd:@loopback-guard" -j DROP  # before accepts for virbr0',
    ],
  ],
  [
    "the accepts in libvirt's own table when libvirt uses nftables",
    { nftBridges: ["virbr0"] },
    [
      ...ruleset(`-p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`),
      'libvirt: oifname "virbr0" ip daddr 192.168.122.0/24 ct status dnat counter accept comment "kvmnatd:@virbr0"',
      'libvirt: iifname "virbr0" ip saddr 192.168.122.0/24 ct direction reply ct status dnat counter accept comment "kvmnatd:@virbr0"',
    ],
  ],
  [
    "IPv6, where loopback cannot be published",
    { family: 6, hostAddresses: ["2001:db8::100"], reach: { loopback: true } },
    ruleset(`-d 2001:db8::100/128 -p tcp -m tcp --dport 1122 ${WEB} [fd00:122::11]:22`).map((line) =>
      line.replaceAll("192.168.122.0/24", "fd00:122::/64").replace("127.0.0.0/8", "::1/128"),
    ),
  ],
  ["nothing while the network is down", { isDown: true }, []],
  ["nothing without a forward", { ports: [] }, []],
])("wants %s", (_what, state, expected) => {
  expect(print(build(state))).toBe(expected.join("\n"));
});

it("writes the constant rules once for a bridge with two addresses in one subnet", () => {
  const web = guest("web", domain("web"));
  const [subnet] = network().subnets;
  if (subnet === undefined) throw new Error("no subnet");
  const twice = network({ subnets: [subnet, { cidr: networkOf(subnet.own, 24), own: ip("192.168.122.2") }] });
  const [forward] = web.forwards;
  if (forward === undefined) throw new Error("no forward");
  const target = { address: ip(ADDRESSES[4]), mac: MAC_A, expiresAtMs: undefined };
  const forwards = [{ forward, family: 4 as const, hostAddresses: [], target, why: undefined }];
  const desired = buildDesired({ portMap: portMap([web]), forwards, networks: [twice] }, 4, new Set());
  expect(print(desired)).toBe(ruleset(`-p tcp -m tcp --dport 1122 ${WEB} 192.168.122.11:22`).join("\n"));
});
