import { describe, expect, it } from "vitest";
import { createForwardingState, findExpectedTarget } from "../../../src/conntrack/expected-target.ts";
import type { ForwardingState } from "../../../src/conntrack/expected-target.ts";
import { parseFlow } from "../../../src/conntrack/flow.ts";
import type { PortMap } from "../../../src/config/port-map.ts";
import { resolveForwards } from "../../../src/forwards/resolve.ts";
import {
  domain,
  guest,
  ip,
  lease,
  MAC_A,
  MAC_B,
  network,
  portMap,
  resolveInputs,
} from "../../support/build-values.ts";
import { line } from "../../support/conntrack-lines.ts";

/*
 * web 192.168.122.11   tcp 1122 -> 22   any address of the host, all clients
 *                      udp 6000-6009 -> 7000-7009   192.168.1.100 only
 * db  192.168.122.12   tcp 1222 -> 22   clients in 10.0.0.0/8
 */
const UP = network({
  leases: [lease("192.168.122.11", MAC_A), lease("192.168.122.12", MAC_B)],
  domains: [
    { bridge: "virbr0", domain: "web", macs: [MAC_A] },
    { bridge: "virbr0", domain: "db", macs: [MAC_B] },
  ],
});
const HOSTS = new Map([
  ["eth0", [ip("192.168.1.100"), ip("192.168.1.101")]],
  ["virbr0", [ip("192.168.122.1")]],
]);

function stateWith(reach: Partial<PortMap["reach"]> = {}): ForwardingState {
  const map = portMap(
    [
      guest("web", domain("web"), [
        { protocol: "tcp", published: 1122, target: 22 },
        {
          protocol: "udp",
          published: [6000, 6009],
          target: [7000, 7009],
          listen: [{ kind: "address", address: ip("192.168.1.100") }],
        },
      ]),
      guest("db", domain("db"), [{ protocol: "tcp", published: 1222, target: 22, allow: ["10.0.0.0/8"] }]),
    ],
    { reach: { guests: true, host: true, loopback: false, ...reach } },
  );
  const { forwards } = resolveForwards(map, [], resolveInputs([UP], HOSTS));
  return createForwardingState({ forwards, reach: map.reach, addresses: HOSTS, networks: [UP] }, 4);
}

function expected(packet: string, state: ForwardingState = stateWith()): string {
  const [source, , destination = "", protocol] = packet.split(" ");
  const [asked, port] = destination.split(":");
  const text = line({
    ...(source === undefined ? {} : { source }),
    ...(asked === undefined ? {} : { asked }),
    port: Number(port),
    protocol: protocol === "udp" ? "udp" : "tcp",
    state: "ESTABLISHED",
  });
  const target = findExpectedTarget(parseFlow(text) ?? expect.fail(text), state);
  return target === undefined ? "-" : `${target.guest} ${target.address}:${target.port}`;
}

const WEB = "web 192.168.122.11:22";

describe("findExpectedTarget", () => {
  it.each([
    ["any address of the host", "203.0.113.5 -> 192.168.1.100:1122 tcp", WEB],
    ["another address of the host", "203.0.113.5 -> 192.168.1.101:1122 tcp", WEB],
    ["the bridge's address", "203.0.113.5 -> 192.168.122.1:1122 tcp", WEB],
    ["an address of another machine", "203.0.113.5 -> 203.0.113.9:1122 tcp", "-"],
    ["another protocol", "203.0.113.5 -> 192.168.1.100:1122 udp", "-"],
    ["a port that is not published", "203.0.113.5 -> 192.168.1.100:1123 tcp", "-"],
    ["the first port of a range", "203.0.113.5 -> 192.168.1.100:6000 udp", "web 192.168.122.11:7000"],
    ["the last port of a range", "203.0.113.5 -> 192.168.1.100:6009 udp", "web 192.168.122.11:7009"],
    ["the port after a range", "203.0.113.5 -> 192.168.1.100:6010 udp", "-"],
    ["an address that the range is not published on", "203.0.113.5 -> 192.168.1.101:6000 udp", "-"],
    ["an admitted client", "10.1.1.1 -> 192.168.1.100:1222 tcp", "db 192.168.122.12:22"],
    ["a client that is not admitted", "203.0.113.5 -> 192.168.1.100:1222 tcp", "-"],
    ["the host itself", "192.168.1.100 -> 192.168.1.100:1122 tcp", WEB],
    ["a guest", "192.168.122.12 -> 192.168.1.100:1122 tcp", WEB],
    ["127.0.0.1, which is not published", "127.0.0.1 -> 127.0.0.1:1122 tcp", "-"],
  ])("%s: %s", (_what, packet, target) => {
    expect(expected(packet)).toBe(target);
  });

  it.each<[Partial<PortMap["reach"]>, string, string]>([
    [{ host: false }, "192.168.1.100 -> 192.168.1.100:1122 tcp", "-"],
    [{ host: false }, "203.0.113.5 -> 192.168.1.100:1122 tcp", WEB],
    [{ host: false }, "192.168.122.12 -> 192.168.1.100:1122 tcp", WEB],
    [{ guests: false }, "192.168.122.12 -> 192.168.1.100:1122 tcp", "-"],
    [{ guests: false }, "192.168.1.100 -> 192.168.1.100:1122 tcp", WEB],
    [{ guests: false }, "192.168.122.1 -> 192.168.1.100:1122 tcp", WEB],
    [{ loopback: true, host: false }, "127.0.0.1 -> 127.0.0.1:1122 tcp", WEB],
    [{ loopback: true }, "127.0.0.1 -> 127.0.0.2:1122 tcp", "-"],
  ])("with reach %o: %s", (reach, packet, target) => {
    expect(expected(packet, stateWith(reach))).toBe(target);
  });
});
