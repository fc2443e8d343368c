import { describe, expect, it } from "vitest";
import { suspectAllPorts } from "../../../src/conntrack/changed-ports.ts";
import type { SuspectPorts } from "../../../src/conntrack/changed-ports.ts";
import { createForwardingState } from "../../../src/conntrack/expected-target.ts";
import type { Forwarding } from "../../../src/conntrack/expected-target.ts";
import { clientKey, parseFlow } from "../../../src/conntrack/flow.ts";
import { findStaleFlows } from "../../../src/conntrack/stale-flows.ts";
import type { StaleFlows } from "../../../src/conntrack/stale-flows.ts";
import { resolveForwards } from "../../../src/forwards/resolve.ts";
import { toPortTargets } from "../../../src/forwards/resolved-forward.ts";
import {
  domain,
  guest,
  ip,
  lease,
  MAC_A,
  network,
  portMap,
  resolveInputs,
} from "../../support/build-values.ts";
import { HOST, line, REMOTE, replyLine } from "../../support/conntrack-lines.ts";
import type { Connection } from "../../support/conntrack-lines.ts";

const HOSTS = new Map([["eth0", [ip(HOST)]]]);
const WEB = "192.168.122.11";
/** A guest that no forward leads to. */
const OTHER = "192.168.122.12";

/** web publishes udp 5353 -> 53 and tcp 22 -> 22. */
function forwarding(more: Partial<Forwarding["reach"]> = {}, allow: readonly string[] = []): Forwarding {
  const reach = { guests: true, host: true, loopback: false, ...more };
  const map = portMap(
    [
      guest("web", domain("web"), [
        { protocol: "udp", published: 5353, target: 53, allow },
        { protocol: "tcp", published: 22, target: 22, allow },
      ]),
    ],
    { reach },
  );
  const up = network({
    leases: [lease(WEB, MAC_A)],
    domains: [{ bridge: "virbr0", domain: "web", macs: [MAC_A] }],
  });
  const { forwards } = resolveForwards(map, [], resolveInputs([up], HOSTS));
  return { forwards, reach, addresses: HOSTS, networks: [up] };
}

const all = ({ forwards }: Forwarding): SuspectPorts =>
  suspectAllPorts({ before: [], after: toPortTargets(forwards) }, 4);

function suspect(protocol: "tcp" | "udp", ports: readonly [number, number][], former: string): SuspectPorts {
  return {
    ports: ports.map(([first, last]) => ({ protocol, range: { first, last } })),
    formerTargets: new Set([ip(former)]),
  };
}

/** @param removed lines of entries that were removed before */
function find(
  lines: readonly string[],
  given = forwarding(),
  suspects = all(given),
  removed: readonly string[] = [],
): readonly StaleFlows[] {
  const clients = new Set(removed.map((text) => clientKey(parseFlow(text) ?? expect.fail(text))));
  return findStaleFlows(lines, { ...suspects, clients }, createForwardingState(given, 4));
}

const isStale = (connection: Connection, given?: Forwarding, suspects?: SuspectPorts): boolean =>
  find([line(connection)], given, suspects).length > 0;

describe("a connection that its client began", () => {
  it.each<[string, Connection, boolean]>([
    ["leads to the guest", {}, false],
    ["leads to another guest", { answerer: OTHER }, true],
    ["leads to another port of the guest", { answerPort: 54 }, true],
    ["is answered by the host", { answerer: HOST, answerPort: 5353 }, true],
    ["leads to the same port of another machine", { asked: "203.0.113.5", answerer: "203.0.113.5" }, false],
    ["asks 127.0.0.1, which is not published", { asked: "127.0.0.1", answerer: "127.0.0.1" }, false],
    ["asks a port that is not suspect", { port: 5354, answerer: OTHER }, false],
    ["uses a protocol that is not suspect", { protocol: "tcp", answerer: OTHER }, false],
    [
      "is an established login on the host",
      { protocol: "tcp", state: "ESTABLISHED", port: 22, answerer: HOST, answerPort: 22 },
      false,
    ],
    [
      "is an unanswered login on the host",
      { protocol: "tcp", state: "SYN_SENT", port: 22, answerer: HOST, answerPort: 22 },
      true,
    ],
  ])("that %s: stale is %3$s", (_what, connection, expected) => {
    expect(isStale(connection)).toBe(expected);
  });

  it("is correct at the host when the host or guests may not reach the port", () => {
    const atHost = { answerer: HOST, answerPort: 5353 };
    expect(isStale({ ...atHost, source: HOST })).toBe(true);
    expect(isStale({ ...atHost, source: HOST }, forwarding({ host: false }))).toBe(false);
    expect(isStale({ ...atHost, source: "192.168.122.50" })).toBe(true);
    expect(isStale({ ...atHost, source: "192.168.122.50" }, forwarding({ guests: false }))).toBe(false);
  });

  it("is stale at the guest when the host or guests may no longer reach the port", () => {
    expect(isStale({ source: HOST })).toBe(false);
    expect(isStale({ source: HOST }, forwarding({ host: false }))).toBe(true);
    expect(isStale({ source: "192.168.122.50" }, forwarding({ guests: false }))).toBe(true);
  });

  it("is judged by reach.loopback alone when its destination is 127.0.0.1", () => {
    const own: Connection = { protocol: "tcp", state: "ESTABLISHED", port: 22, answerPort: 22 };
    const asked = { ...own, source: "127.0.0.1", asked: "127.0.0.1" };
    for (const host of [true, false]) {
      expect(isStale(asked, forwarding({ host, loopback: true }))).toBe(false);
      expect(isStale(asked, forwarding({ host, loopback: false }))).toBe(true);
    }
  });

  it("is stale when its client is no longer admitted, and the command spares admitted clients", () => {
    const given = forwarding({}, ["10.0.0.0/8"]);
    expect(find([line({}), line({ source: "10.1.1.1" })], given)).toMatchObject([
      { flow: { source: REMOTE }, selector: { port: 5353, source: REMOTE }, guest: "web" },
    ]);
  });

  it("is stale when its server is the target of a forward that has ended", () => {
    const suspects = suspect("udp", [[7000, 7099]], WEB);
    const stale = (connection: Connection): boolean => isStale(connection, forwarding(), suspects);
    expect(stale({ port: 7042, answerPort: 7042 })).toBe(true);
    expect(stale({ port: 7042, answerPort: 7042, answerer: HOST })).toBe(false);
    expect(stale({ port: 7100, answerPort: 7100 })).toBe(false);
  });

  it("is correct when the host itself connects to a guest's own address", () => {
    const suspects = suspect("udp", [[53, 53]], WEB);
    expect(isStale({ source: HOST, asked: WEB, port: 53 }, forwarding(), suspects)).toBe(false);
  });
});

describe("an entry that the server began", () => {
  const atHost = line({ answerer: HOST, answerPort: 5353 });

  it.each([
    ["of the host, to a client whose entry was removed", replyLine(HOST), true],
    ["that is not answered yet", replyLine(HOST).replace(" src=198", " [UNREPLIED] src=198"), true],
    ["of the host, to another port of that client", replyLine(HOST, { clientPort: 123 }), false],
    ["of the host, to another client", replyLine(HOST, { to: "198.51.100.3" }), false],
    ["from an address that is not the host's", replyLine(HOST, { asked: "203.0.113.5" }), false],
    ["of the guest before", replyLine(OTHER), true],
    ["of the guest before, to any client", replyLine(OTHER, { to: "198.51.100.3" }), true],
    ["of another machine", replyLine("203.0.113.5"), false],
    ["of a guest that asks a server by itself", replyLine(OTHER, { asked: "203.0.113.5" }), false],
  ])("%s: stale is %3$s", (_what, text, expected) => {
    expect(find([text], forwarding(), all(forwarding()), [atHost])).toHaveLength(expected ? 1 : 0);
  });

  it("is correct when the guest's port is translated: the reply could not reach the client", () => {
    const translated = replyLine(OTHER).replace("sport=5353", "sport=53");
    expect(find([translated])).toEqual([]);
  });

  it("is correct when the guest has only begun to connect", () => {
    const connecting = replyLine(OTHER, { port: 22 })
      .replace(/^udp +17/, "tcp      6")
      .replace("29 ", "29 SYN_SENT ");
    expect(find([connecting])).toEqual([]);
    expect(find([connecting.replace("SYN_SENT", "ESTABLISHED")])).toHaveLength(1);
  });

  it("is correct when the rules redirect the client to this guest", () => {
    const forwards = forwarding().forwards.map((each) => ({
      ...each,
      forward: { ...each.forward, target: each.forward.published },
    }));
    const given = { ...forwarding(), forwards };
    expect(find([replyLine(WEB)], given)).toEqual([]);
    expect(find([replyLine(OTHER)], given)).toHaveLength(1);
  });

  it("is correct at the host, and stale at the guest before, once the port is no longer published", () => {
    const given = { ...forwarding(), forwards: [] };
    const suspects = suspect("udp", [[5353, 5353]], OTHER);
    expect(find([replyLine(HOST)], given, suspects, [atHost])).toEqual([]);
    expect(find([replyLine(OTHER)], given, suspects, [atHost])).toHaveLength(1);
  });

  it("is selected by its ports", () => {
    expect(find([replyLine(OTHER)])).toMatchObject([
      {
        guest: "web",
        flow: { initiator: "server", source: REMOTE, sourcePort: 40_000, port: 5353 },
        selector: { port: 5353, source: undefined, state: undefined },
      },
    ]);
  });

  it("is removed together with others that are alike, unless one of them is correct", () => {
    const sources = Array.from({ length: 100 }, (_, index) => `203.0.113.${index}`);
    const removed = sources.map((source) => line({ source, answerer: HOST, answerPort: 5353 }));
    const lines = sources.map((to) => replyLine(HOST, { to }));
    const suspects = all(forwarding());
    expect(find(lines, forwarding(), suspects, removed)).toMatchObject([{ selector: { source: undefined } }]);
    const own = replyLine(HOST, { to: "203.0.113.5", clientPort: 123 });
    const found = find([...lines, own], forwarding(), suspects, removed);
    expect(found.map(({ selector }) => selector.source)).toEqual(sources);
  });

  it("comes after those that clients began", () => {
    const found = find([replyLine(OTHER), line({ answerer: OTHER })]);
    expect(found.map(({ flow }) => flow.initiator)).toEqual(["client", "server"]);
  });
});

describe("the number of commands", () => {
  const clients = (connection: Connection): readonly string[] =>
    Array.from({ length: 1000 }, (_, index) =>
      line({ source: `198.51.${index >> 8}.${index & 255}`, ...connection }),
    );

  it("is one for many clients of a port", () => {
    expect(find(clients({ answerer: OTHER }))).toHaveLength(1);
  });

  it("is one per client only where another client of the port is correct", () => {
    const given = forwarding({ host: false });
    const lines = clients({ answerer: HOST, answerPort: 5353 });
    expect(find(lines, given)).toMatchObject([{ selector: { source: undefined } }]);
    const own = line({ source: HOST, answerer: HOST, answerPort: 5353 });
    expect(find([...lines, own], given)).toHaveLength(1000);
  });

  const range = suspect("udp", [[7000, 7999]], OTHER);
  const ports = Array.from({ length: 1000 }, (_, index) =>
    line({ port: 7000 + index, answerPort: 7000 + index, answerer: OTHER }),
  );

  it("is one for many ports of a guest that has no other connections", () => {
    expect(find(ports, forwarding(), range)).toMatchObject([{ selector: { port: undefined } }]);
    const elsewhere = line({ port: 8053, asked: "203.0.113.5", answerer: OTHER });
    expect(find([...ports, elsewhere], forwarding(), range)).toHaveLength(1);
  });

  it("is one per port when another program's rule redirects to the same guest", () => {
    const foreign = line({ port: 8053, answerer: OTHER });
    expect(find([...ports, foreign], forwarding(), range)).toHaveLength(1000);
  });

  it("is one per port where one of the ports has a correct client", () => {
    const given = forwarding({}, ["10.0.0.0/8"]);
    const toWeb = (more: Connection): string => line({ protocol: "tcp", state: "ESTABLISHED", ...more });
    const ended = Array.from({ length: 8 }, (_, index) =>
      toWeb({ port: 7000 + index, answerPort: 7000 + index }),
    );
    const login = { port: 22, answerPort: 22 };
    const lines = [...ended, toWeb(login), toWeb({ ...login, source: "10.1.1.1" })];
    const suspects = suspect(
      "tcp",
      [
        [22, 22],
        [7000, 7007],
      ],
      WEB,
    );
    const found = find(lines, given, suspects);
    expect(found).toHaveLength(9);
    expect(found.every(({ selector }) => selector.port !== undefined)).toBe(true);
  });
});
