import { expect, it } from "vitest";
import { findMissingOnHost } from "../../../src/forwards/check-host.ts";
import { parsePortMap } from "../../../src/config/parse-port-map.ts";
import { parseYaml } from "../../../src/config/yaml/document.ts";
import { ip } from "../../support/build-values.ts";

const ADDRESSES = new Map([
  ["eth0", [ip("192.168.1.100"), ip("2001:db8::1")]],
  ["eth1", []],
  ["virbr0", [ip("192.168.122.1")]],
]);

/** `LINE:COLUMN message` */
function told(text: string): readonly string[] {
  const { value: portMap } = parsePortMap(text, "c.yaml", { isCron: () => true });
  const { value: document } = parseYaml(text, "c.yaml");
  if (portMap === undefined || document === undefined) throw new Error("the config is bad");
  return findMissingOnHost(document, portMap, ADDRESSES, new Set(["virbr1"])).map(
    ({ where, message }) => `${where?.line}:${where?.column} ${message.split(":", 1)[0]}`,
  );
}

const GUESTS = "guests: {a: {ports: ['1:2', '3:4']}}";

it.each([
  [GUESTS, []],
  [`listen: 192.168.1.100\n${GUESTS}`, []],
  [`listen: [eth0, eth1, "2001:DB8::1"]\n${GUESTS}`, []],
  [`reach: {loopback: true}\nlisten: 127.0.0.1\n${GUESTS}`, []],
  [`listen: 192.168.1.200\n${GUESTS}`, ["1:9 192.168.1.200 is not an address of this host (yet)"]],
  [`listen: [eth0, eth9]\n${GUESTS}`, ["1:16 there is no interface eth9 on this host (yet)"]],
  [`guests: {a: {ports: ['10.0.0.1:1:2']}}`, ["1:22 10.0.0.1 is not an address of this host (yet)"]],
  [
    "guests: {a: {ports: [{published: 1, target: 2, host_ip: eth9}]}}",
    ["1:22 there is no interface eth9 on this host (yet)"],
  ],
  [
    `networks: [virbr0, virbr1, virbr9]\n${GUESTS}`,
    ["1:28 there is no bridge virbr9 on this host (yet), and libvirt has no leases of it"],
  ],
])("reports names that this host does not have, with line and column: %s", (text, expected) => {
  expect(told(text)).toEqual(expected);
});
