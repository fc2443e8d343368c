import { describe, expect, it } from "vitest";
import type { Diagnostic } from "../../../src/diagnostic.ts";
import { formatEndpoint } from "../../../src/config/values/endpoint.ts";
import { parsePortMap } from "../../../src/config/parse-port-map.ts";
import type { Forward, Guest, PortMap } from "../../../src/config/port-map.ts";

const checks = { isCron: (expression: string): boolean => expression.split(" ").length === 5 };

function diagnosticsOf(text: string): readonly Diagnostic<string>[] {
  return parsePortMap(text, "c.yaml", checks).diagnostics;
}

/** `LINE:COLUMN code`, with `?` where the diagnostic is of the file as a whole. */
function placesOf(text: string): readonly string[] {
  return diagnosticsOf(text).map(
    ({ where, code }) => `${where?.line ?? "?"}:${where?.column ?? "?"} ${code}`,
  );
}

function read(text: string): PortMap {
  const { value, diagnostics } = parsePortMap(text, "c.yaml", checks);
  expect(diagnostics.filter(({ severity }) => severity === "error")).toEqual([]);
  if (value === undefined) throw new Error("no port map");
  return value;
}

function guestOf(text: string): Guest {
  const guest = read(text).guests[0];
  if (guest === undefined) throw new Error("no guest");
  return guest;
}

function forwardOf(port: string): Forward {
  const forward = guestOf(`guests: {a: {ports: [${port}]}}`).forwards[0];
  if (forward === undefined) throw new Error("no forward");
  return forward;
}

describe("a config", () => {
  it("has the defaults of the contract", () => {
    expect(read("guests: {}")).toEqual({
      guests: [],
      reach: { guests: true, host: true, loopback: false },
      resync: "*/5 * * * *",
      lingerMs: 5000,
      onStop: "keep",
      iptables: "auto",
      logLevel: "info",
    });
  });

  it("has every value that is written", () => {
    const text = `
networks: [virbr0, virbr1, virbr0]
reach: {guests: no, host: Off, loopback: YES}
resync: 0 * * * *
linger: 2m
on_stop: remove
iptables: legacy
log_level: trace
listen: [127.0.0.1, eth0]
guests: {a: {network: virbr1, ports: ["1:2"]}}`;
    expect(read(text)).toMatchObject({
      networks: ["virbr0", "virbr1"],
      reach: { guests: false, host: false, loopback: true },
      resync: "0 * * * *",
      lingerMs: 120_000,
      onStop: "remove",
      iptables: "legacy",
      logLevel: "trace",
      guests: [
        {
          name: "a",
          network: "virbr1",
          identity: { kind: "domain", domain: "a" },
          forwards: [
            {
              listen: [
                { kind: "address", address: "127.0.0.1" },
                { kind: "interface", name: "eth0" },
              ],
            },
          ],
        },
      ],
    });
  });

  it.each([
    ["nothing", "", "?:? config-empty"],
    ["white space", " \n\n", "?:? config-empty"],
    ["comments", "# listen: x\n# guests:\n", "?:? config-empty"],
    ["a document start", "---\n", "?:? config-empty"],
    ["null", "~", "?:? config-empty"],
    ["a BOM", "\uFEFF", "?:? config-empty"],
    ["no guests", "listen: 10.0.0.1\n", "1:1 no-guests"],
    ["guests cut off", "listen: 10.0.0.1\nguests:\n", "2:1 no-guests"],
  ])("of %s is rejected, so that a half-written file removes no forward", (_, text, expected) => {
    expect(placesOf(text)).toEqual([expected]);
    expect(diagnosticsOf(text)[0]?.message).toContain("write `guests: {}` for none");
    expect(parsePortMap(text, "c.yaml", checks).value).toBeUndefined();
  });

  it("may have a BOM and CRLF", () => {
    const guest = guestOf("\uFEFFguests:\r\n  a:\r\n    ports:\r\n      - 1:2\r\n");
    expect(guest.where).toEqual({ file: "c.yaml", line: 2, column: 3 });
    expect(guest.forwards[0]?.where).toEqual({ file: "c.yaml", line: 4, column: 9 });
    expect(placesOf("\uFEFFlisen: x\r\nguests: {}")).toEqual(["1:1 unknown-key"]);
  });
});

describe("a key of the wrong type", () => {
  it.each([
    ["foo", "1:1 wrong-type"],
    ["- a: b", "1:1 wrong-type"],
    ["guests: []", "1:9 wrong-type"],
    ["guests: a", "1:9 wrong-type"],
    ["guests: {a: b}", "1:13 wrong-type"],
    ["guests: {a: [1:2]}", "1:13 wrong-type"],
    ["guests: {a: {domain: [x]}}", "1:22 wrong-type"],
    ["guests: {a: {domain: }}", "1:14 no-value"],
    ["guests: {a: {mac: {x: y}}}", "1:19 wrong-type"],
    ["guests: {a: {address: [1.2.3.4]}}", "1:23 wrong-type"],
    ["guests: {a: {hostname: [x]}}", "1:24 wrong-type"],
    ["guests: {a: {network: [x]}}", "1:23 wrong-type"],
    ["guests: {a: {allow: 10.0.0.0/8}}", "1:21 wrong-type"],
    ["guests: {a: {allow: }}", "1:14 no-value"],
    ["guests: {a: {allow: [[x]]}}", "1:22 wrong-type"],
    ["guests: {a: {ports: 1:2}}", "1:21 wrong-type"],
    ["guests: {a: {ports: {x: y}}}", "1:21 wrong-type"],
    ["guests: {a: {ports: [[22]]}}", "1:22 wrong-type"],
    ["guests: {a: {ports: [null]}}", "1:22 no-value"],
    ["guests: {a: {ports: [{published: [1], target: 2}]}}", "1:34 wrong-type"],
    ["guests: {a: {ports: [{published: 1, target: {x: y}}]}}", "1:45 wrong-type"],
    ["guests: {a: {ports: [{published: 1, target: 1, host_ip: [x]}]}}", "1:57 wrong-type"],
    ["guests: {a: {ports: [{published: 1, target: 1, protocol: [x]}]}}", "1:58 wrong-type"],
    ["guests: {a: {ports: [{published: 1, target: 1, allow: 10.0.0.1}]}}", "1:55 wrong-type"],
    ["{guests: {}, listen: {x: y}}", "1:22 wrong-type"],
    ["{guests: {}, listen: }", "1:14 no-value"],
    ["{guests: {}, listen: [[x]]}", "1:23 wrong-type"],
    ["{guests: {}, networks: virbr0}", "1:24 wrong-type"],
    ["{guests: {}, networks: ~}", "1:24 no-value"],
    ["{guests: {}, reach: true}", "1:21 wrong-type"],
    ["{guests: {}, reach: {guests: [x]}}", "1:30 wrong-type"],
    ["{guests: {}, reach: {host: 1}}", "1:28 bad-value"],
    ["{guests: {}, reach: {loopback: y}}", "1:32 bad-value"],
    ["{guests: {}, resync: [x]}", "1:22 wrong-type"],
    ["{guests: {}, linger: {x: y}}", "1:22 wrong-type"],
    ["{guests: {}, on_stop: [x]}", "1:23 wrong-type"],
    ["{guests: {}, iptables: {x: y}}", "1:24 wrong-type"],
    ["{guests: {}, log_level: 3}", "1:25 unknown-value"],
  ])("reports %s at %s", (text, expected) => {
    expect(placesOf(text).filter((line) => !line.endsWith("no-ports"))).toEqual([expected]);
  });
});

describe("an unusable value", () => {
  it.each([
    ["{guests: {}, on_stop: kep}", "1:23 unknown-value", 'did you mean "keep"?'],
    ["{guests: {}, iptables: nftables}", "1:24 unknown-value", "auto, nft, legacy"],
    ["{guests: {}, log_level: warning}", "1:25 unknown-value", 'did you mean "warn"?'],
    ["{guests: {}, linger: 5}", "1:22 duration-unit", "write 5s"],
    ["{guests: {}, linger: 25h}", "1:22 duration-long", "24h"],
    ["{guests: {}, resync: often}", "1:22 resync", "cron"],
    ["{guests: {}, listen: []}", "1:22 bad-value", "remove the key"],
    ["{guests: {}, networks: []}", "1:24 bad-value", "remove the key"],
    ["{guests: {}, networks: [a/b]}", "1:25 interface-name", "a bridge"],
    ["{guests: {}, listen: [10.0.0.1, ff02::1]}", "1:33 host-address", "multicast"],
    ["{guests: {}, metrics: '127.0.0.1'}", "1:23 port-number", "127.0.0.1"],
    ["{guests: {}, metrics: '127.0.0.1:'}", "1:23 port-syntax", "127.0.0.1:9101"],
    ["{guests: {}, metrics: '127.0.0.1:0'}", "1:23 port-number", "1-65535"],
    ["{guests: {}, metrics: 65536}", "1:23 port-number", "1-65535"],
    ["{guests: {}, metrics: 'example.org:9101'}", "1:23 endpoint", "127.0.0.1:9101"],
    ["{guests: {}, metrics: '224.0.0.1:9101'}", "1:23 host-address", "multicast"],
    ["{guests: {}, metrics: 'fe80::1:9101'}", "1:23 endpoint", '"[fe80::1:9101]:9101"'],
    ["{guests: {}, metrics: '[fe80::1]:9101'}", "1:23 host-address", "link-local"],
    ["{guests: {}, metrics: 'http://127.0.0.1:9101/metrics'}", "1:23 endpoint", "not HOST:PORT"],
    ["{guests: {}, metrics: [9101]}", "1:23 wrong-type", "metrics is a list, not text"],
    ["guests: {}\nmetrics: [::1]:9101", "2:15 yaml-quote", '"[::1]:9101"'],
    ["{guests: {}, sources: 5}", "1:14 not-supported", "not supported yet"],
    ["guests: {a: {reserve: 1.2.3.4, ports: ['1:2']}}", "1:14 not-supported", "not supported yet"],
    ["guests: {a: {allow: [], ports: ['1:2']}}", "1:21 bad-value", "remove the key to let every client in"],
    ["guests: {a: {allow: 10.0.0.0/8, ports: ['1:2']}}", "1:21 wrong-type", "write [10.0.0.0/8]"],
    ["guests: {a: {allow: 10.0.0.0/33, ports: ['1:2']}}", "1:21 wrong-type", "allow is text, not a list"],
    ["guests: {a: {ports: '1122:22'}}", "1:21 wrong-type", 'write ["1122:22"]'],
    ["{guests: {}, networks: virbr0}", "1:24 wrong-type", "write [virbr0]"],
    ["guests: {a: {allow: [all], ports: ['1:2']}}", "1:22 allow", "10.0.0.0/8"],
    ["guests: {a: {allow: [10.0.0.0/33], ports: ['1:2']}}", "1:22 allow", "10.0.0.0/33"],
    [
      "guests: {a: {ports: [{published: 1, target: 1, allow: [x]}]}}",
      "1:56 allow",
      "not an address or a network",
    ],
    ["guests: {a: {mac: 01:00:5e:00:00:01, ports: ['1:2']}}", "1:19 mac", "MAC"],
    ["guests: {a: {address: 192.168.122.300, ports: ['1:2']}}", "1:23 guest-address", "192.168.122.300"],
    ["guests: {a: {address: 224.0.0.1, ports: ['1:2']}}", "1:23 guest-address", "multicast"],
    ["guests: {a: {domain: '', ports: ['1:2']}}", "1:22 name-empty", "empty"],
    ['guests: {a: {domain: "a\\nb", ports: ["1:2"]}}', "1:22 name-control", "control"],
    ['guests: {"a\\tb": {ports: ["1:2"]}}', "1:10 name-control", "control"],
    ["guests: {a: {network: 'a b', ports: ['1:2']}}", "1:23 interface-name", "a bridge"],
    ["guests: {a: {ports: [{published: 1, target: 2, protocol: icmp}]}}", "1:58 unknown-value", "sctp"],
  ])("reports %s at %s", (text, expected, hint) => {
    expect(placesOf(text)).toEqual([expected]);
    expect(diagnosticsOf(text)[0]?.message).toContain(hint);
  });

  it.each([
    "{guests: {}, networks: a/b}",
    "guests: {a: {allow: 1.2.3.4/33, ports: ['1:2']}}",
    "guests: {a: {ports: ssh}}",
  ])("suggests no list for %s, which is invalid in a list too", (text) => {
    expect(diagnosticsOf(text)[0]?.message).not.toContain("write [");
  });

  it("is a name of more than 200 bytes", () => {
    expect(placesOf(`guests: {a: {domain: ${"ü".repeat(100)}, ports: ['1:2']}}`)).toEqual([]);
    expect(placesOf(`guests: {a: {domain: ${"ü".repeat(101)}, ports: ['1:2']}}`)).toEqual(["1:22 name-long"]);
  });

  it("is a guest's bridge that is not served", () => {
    const text = "networks: [virbr0]\nguests: {a: {network: virbr1, ports: ['1:2']}}";
    expect(placesOf(text)).toEqual(["2:23 network-not-served"]);
  });
});

describe("an unknown key", () => {
  it.each([
    ["lisen: x\nguests: {}", "1:1 unknown-key", 'did you mean "listen"?'],
    ["guests: {}\nGuests: {}", "2:1 unknown-key", 'did you mean "guests"?'],
    ["guests: {}\nreach: {gests: on}", "2:9 unknown-key", 'did you mean "guests"?'],
    ["guests: {a: {ports: ['1:2'], hostnam: x}}", "1:30 unknown-key", 'did you mean "hostname"?'],
    ["guests: {a: {ports: [{published: 1, target: 1, proto: udp}]}}", "1:48 unknown-key", '"protocol"'],
    ["guests: {ports: {ports: ['1:2'], port: x}}", "1:34 unknown-key", '"ports"'],
    // What it stands for is not missing, and no ports are not what is odd about the guest.
    ["guest: {a: {ports: ['1:2']}}", "1:1 unknown-key", 'did you mean "guests"?'],
    ["guests: {a: {port: ['1:2']}}", "1:14 unknown-key", 'did you mean "ports"?'],
    ["guests: {a: {ports: [{publised: 1, target: 1}]}}", "1:23 unknown-key", '"published"'],
    ["guests: {}\nxyzzy: 1", "2:1 unknown-key", "known here: listen, networks, guests"],
    ["guests: {}\nconstructor: 1", "2:1 unknown-key", "known here"],
  ])("reports %j at %s with the nearest known key", (text, expected, hint) => {
    expect(placesOf(text)).toEqual([expected]);
    expect(diagnosticsOf(text)[0]?.message).toContain(hint);
  });
});

describe("YAML", () => {
  it.each([
    ["a tab", "guests:\n\ta:\n", "2:1 yaml-tab"],
    ["a key twice", "guests: {}\nlisten: a\nguests: {}\n", "3:1 duplicate-key"],
    ["a guest twice", "guests:\n  a: {ports: ['1:2']}\n  'a': {}\n", "3:3 duplicate-key"],
    ["several documents", "guests: {}\n---\nguests: {}\n", "2:1 yaml-documents"],
    ["an unknown alias", "guests: *x\n", "1:9 yaml-alias"],
    ["an alias within its anchor", "guests: &a {b: *a}\n", "1:16 yaml-alias"],
    ["a merged list", "guests: {<<: [x]}\n", "1:10 yaml-merge"],
    ["guests below {}", "guests: {} # none\n  web: {}\n", "2:1 yaml-syntax"],
    ["what stands beside {}", "guests:\n  web: {}\n  @db: {}\n", "3:3 yaml-syntax"],
    ["a tag", "guests: !!omap {}\n", "1:9 yaml-tag"],
    ["a list as key", "guests: {[a]: b}\n", "1:10 yaml-syntax"],
    ["an open bracket", "listen: [a\nguests: {}\n", "2:1 yaml-syntax"],
    ["__proto__", "guests: {__proto__: {}}\n", "1:10 key-forbidden"],
    ["an unquoted IPv6 port", "guests:\n  a:\n    ports:\n      - [::1]:80:80\n", "4:14 yaml-quote"],
    ["an unquoted ::", "listen: ::\nguests: {}\n", "1:9 yaml-quote"],
    ["an unquoted :: in a list", "listen:\n  - ::\nguests: {}\n", "2:5 yaml-quote"],
    ["a space in a port", "guests:\n  a:\n    ports:\n      - 22: 22\n", "4:9 yaml-quote"],
    ["endless nesting", `guests: ${"[".repeat(5000)}`, "1:"],
  ])("with %s is rejected with messages of one line", (_, text, expected) => {
    expect(placesOf(text)[0]).toContain(expected);
    for (const { message } of diagnosticsOf(text)) expect(message).not.toContain("\n");
    expect(parsePortMap(text, "c.yaml", checks).value).toBeUndefined();
  });

  it("reports the line of the first of two equal keys", () => {
    expect(diagnosticsOf("guests: {}\nlisten: a\nguests: {}\n")[0]?.message).toContain("line 1");
  });

  it("with an alias bomb is rejected within a second", () => {
    const levels = Array.from({ length: 30 }, (_, index) => {
      const alias = Array.from({ length: 10 }, () => `*a${index}`).join(", ");
      return `a${index + 1}: &a${index + 1} [${alias}]`;
    });
    const before = process.cpuUsage();
    expect(placesOf(["a0: &a0 [x]", ...levels].join("\n"))).toEqual([
      expect.stringMatching(/yaml-alias-bomb$/),
    ]);
    expect(process.cpuUsage(before).user).toBeLessThan(1e6);
  });

  it("accepts 5,000 aliases of one anchor", () => {
    const guests = Array.from(
      { length: 5000 },
      (_, index) => `  g${index}: {allow: *lan, ports: ["${index + 1}:22"]}`,
    );
    const text = `guests:\n  first: {allow: &lan [10.0.0.0/8, 192.168.0.0/16], ports: ["9000:22"]}\n${guests.join("\n")}`;
    expect(read(text).guests[4999]?.forwards[0]?.allow).toHaveLength(2);
  });

  it("merges mappings, own keys first, with the places of the originals", () => {
    const text = `guests:
  a: &a
    mac: 52:54:00:6c:3c:01
    allow: [10.0.0.1]
    ports: ["1:1"]
  b:
    ports: ["2:2"]
    <<: *a
  c:
    <<: [{ports: ["3:3"]}, *a]
`;
    const guests = read(text).guests;
    expect(guests.map(({ where }) => where?.line)).toEqual([3, 3, 3]);
    expect(guests.map(({ forwards }) => forwards[0]?.published.first)).toEqual([1, 2, 3]);
    expect(guests.map(({ forwards }) => forwards[0]?.where?.line)).toEqual([5, 7, 10]);
    expect(guests.map(({ forwards }) => forwards[0]?.allow[0]?.base)).toEqual(Array(3).fill("10.0.0.1"));
  });

  it("keeps the names of guests as written and in the order of the file", () => {
    const names = ["on", "007", "0x50", "1e3", "null", "true", "~", "12", "3", "a b", "constructor"];
    const text = `guests:\n${names.map((name) => `  ${name}: {ports: []}`).join("\n")}\n`;
    expect(read(text).guests.map(({ name }) => name)).toEqual(names);
    expect(read(text).guests.map(({ identity }) => "domain" in identity && identity.domain)).toEqual(names);
    expect(guestOf("guests: {a: {domain: 007}}").identity).toEqual({ kind: "domain", domain: "007" });
  });

  it.each([
    ["on", true],
    ["Yes", true],
    ["TRUE", true],
    ["'true'", true],
    ["oFf", false],
    ["no", false],
    ["False", false],
  ])("reads %s as a boolean", (text, expected) => {
    expect(read(`guests: {}\nreach: {loopback: ${text}}`).reach.loopback).toBe(expected);
  });
});

describe("a guest", () => {
  it.each([
    ["{domain: b}", { kind: "domain", domain: "b" }],
    ["{mac: 52-54-00-6C-3C-02}", { kind: "mac", mac: "52:54:00:6c:3c:02" }],
    ["{address: 192.168.122.50}", { kind: "address", address: "192.168.122.50" }],
    ["{hostname: pc}", { kind: "hostname", hostname: "pc" }],
    ["{}", { kind: "domain", domain: "a" }],
    ["", { kind: "domain", domain: "a" }],
  ])("%s has the identity %j", (text, identity) => {
    expect(guestOf(`guests:\n  a: ${text}\n`).identity).toEqual(identity);
  });

  it("has the place of its identity, else of its key", () => {
    expect(guestOf("guests:\n  a:\n    hostname: x\n").where).toMatchObject({ line: 3, column: 15 });
    expect(guestOf("guests:\n  a:\n    ports: []\n").where).toMatchObject({ line: 2, column: 3 });
  });

  it("has one identity", () => {
    const text =
      "guests:\n  a:\n    domain: x\n    mac: 52:54:00:6c:3c:02\n    hostname: y\n    ports: [1:2]\n";
    expect(placesOf(text)).toEqual(["4:10 two-identities", "5:15 two-identities"]);
    expect(diagnosticsOf(text)[0]?.message).toContain("line 3");
  });

  it.each(["guests: {a: }", "guests: {a: {}}", "guests: {a: {ports: }}", "guests: {a: {ports: []}}"])(
    "without ports gets a warning: %s",
    (text) => {
      expect(diagnosticsOf(text)).toMatchObject([{ severity: "warning", where: { line: 1, column: 10 } }]);
      expect(read(text).guests).toHaveLength(1);
    },
  );

  it.each([
    ["address: 192.168.122.50, ports: ['1:2']", []],
    ["address: 192.168.122.50, ports: ['[2001:db8::1]:1:2']", ["1:47 address-family"]],
    ["address: '2001:db8::50', ports: ['1:2']", ["1:47 address-family"]],
    [
      "address: '2001:db8::50', ports: ['[::]:1:2', {published: 1, target: 2, host_ip: '2001:db8::1'}]",
      ["1:59 port-overlap"],
    ],
    ["address: '2001:db8::50', ports: ['[::]:1:2']", []],
  ])("{%s} is published on addresses of its family", (guest, expected) => {
    expect(placesOf(`guests: {a: {${guest}}}`)).toEqual(expected);
  });

  it.each([
    ["listen: '::'", "10.0.0.0/8", ["2:32 allow-family"]],
    ["listen: 0.0.0.0", "fd00::/8", ["2:32 allow-family"]],
    ["listen: ['::', 0.0.0.0]", "fd00::/8", []],
    ["listen: eth0", "fd00::/8", []],
  ])("with %s reports whether %s can connect", (listen, source, expected) => {
    expect(
      placesOf(`${listen}\nguests: {a: {allow: ['${source}'], ports: ['1:2']}}`).map((each) =>
        each.replace(/^2:\d+/, "2:32"),
      ),
    ).toEqual(expected);
  });

  it("with an IPv6 address may be published on an interface", () => {
    expect(placesOf("listen: eth0\nguests: {a: {address: '2001:db8::50', ports: ['1:2']}}")).toEqual([]);
  });
});

describe("a port", () => {
  it("is published on every IPv4 address by default", () => {
    expect(forwardOf("22:22")).toEqual({
      guest: "a",
      protocol: "tcp",
      published: { first: 22, last: 22 },
      target: { first: 22, last: 22 },
      listen: [{ kind: "any", family: 4 }],
      allow: [],
      where: { file: "c.yaml", line: 1, column: 22 },
    });
  });

  it("replaces listen by its own host address", () => {
    const text =
      "listen: ['::', 0.0.0.0]\nguests: {a: {ports: ['1:1', '10.0.0.1:2:2', '0.0.0.0:3:3', '[::]:4:4']}}";
    expect(guestOf(text).forwards.map(({ listen }) => listen)).toEqual([
      [
        { kind: "any", family: 6 },
        { kind: "any", family: 4 },
      ],
      [{ kind: "address", address: "10.0.0.1" }],
      [{ kind: "any", family: 4 }],
      [{ kind: "any", family: 6 }],
    ]);
  });

  it("may name an interface in the long form's host_ip", () => {
    expect(forwardOf("{published: 80, target: 80, host_ip: eth0}").listen).toEqual([
      { kind: "interface", name: "eth0" },
    ]);
    const on = (hostIp: string): readonly string[] =>
      placesOf(`guests: {a: {ports: ['10.0.0.1:80:80', {published: 80, target: 81, host_ip: ${hostIp}}]}}`);
    expect(on("eth0")).toEqual([]);
    expect(on("10.0.0.1")).toEqual(["1:40 port-overlap"]);
    expect(on("sixteen_chars_16")).toEqual([expect.stringMatching(/interface-long$/)]);
    expect(on("a/b")).toEqual([expect.stringMatching(/ listen$/)]);
  });

  it("replaces the guest's allow by its own", () => {
    const text =
      "guests: {a: {allow: [10.1.2.3/8, 10.0.0.0/8], ports: ['1:1', {published: 2, target: 2, allow: [192.0.2.7]}]}}";
    expect(guestOf(text).forwards.map(({ allow }) => allow)).toEqual([
      [{ family: 4, base: "10.0.0.0", prefix: 8 }],
      [{ family: 4, base: "192.0.2.7", prefix: 32 }],
    ]);
  });

  it("of both protocols becomes two forwards at one place", () => {
    const forwards = guestOf("guests: {a: {ports: [53:53/both]}}").forwards;
    expect(forwards.map(({ protocol }) => protocol)).toEqual(["tcp", "udp"]);
    expect(forwards[0]?.where).toEqual(forwards[1]?.where);
  });

  it("may be hexadecimal", () => {
    expect(forwardOf("0x50:0x1F90")).toMatchObject({ published: { first: 80 }, target: { first: 8080 } });
    expect(forwardOf("{published: 0x50, target: 80}")).toMatchObject({ published: { first: 80 } });
  });

  it.each([
    ["22", "1:22 port-syntax", "write 22:22"],
    ["0:22", "1:22 port-number", "1-65535"],
    ["22:65536", "1:22 port-number", "1-65535"],
    ["9-8:1-2", "1:22 port-reversed", "write 8-9"],
    ["8-9:8", "1:22 port-unequal", "equal length"],
    ["{published: 0, target: 22}", "1:34 port-number", "1-65535"],
    ["{published: 1, target: 65536}", "1:45 port-number", "1-65535"],
    ["{published: 2-1, target: 1-2}", "1:34 port-reversed", "write 1-2"],
    ["{published: 1-2, target: 1-3}", "1:47 port-unequal", "equal length"],
    ["{target: 22}", "1:22 missing-key", "published"],
    ["{published: 22}", "1:22 missing-key", "target"],
    ["127.0.0.1:1:2", "1:22 host-address", "reach.loopback: true"],
    ["{published: 1, target: 2, host_ip: 127.0.0.2}", "1:57 host-address", "reach.loopback: true"],
    ["'[::1]:1:2'", "1:22 host-address", "reach.loopback"],
    ["'[fe80::1]:1:2'", "1:22 host-address", "link-local"],
    ["239.1.1.1:1:2", "1:22 host-address", "multicast"],
    ["eth0:1:2", "1:22 host-ip", "listen"],
  ])("%s is rejected at %s", (port, expected, hint) => {
    const text = `guests: {a: {ports: [${port}]}}`;
    expect(placesOf(text)).toEqual([expected]);
    expect(diagnosticsOf(text)[0]?.message).toContain(hint);
  });
});

describe("two publications of one port", () => {
  it.each([
    ["tcp and both", "['53:53', '53:1/both']"],
    ["udp and both", "['53:53/udp', '53:1/both']"],
    ["a range and a single port", "['8000-8100:8000-8100', '8050:80']"],
    ["two ranges", "['8000-8100:8000-8100', '8100-8200:8000-8100']"],
    ["every address and one", "['80:80', '10.0.0.1:80:81']"],
    ["one address and every", "['10.0.0.1:80:80', '0.0.0.0:80:81']"],
    ["one address twice", "['10.0.0.1:80:80', '10.0.0.1:80:81']"],
    ["every IPv6 address and one", "['[::]:80:80', '[2001:db8::1]:80:81']"],
  ])("by %s is rejected with both places", (_, ports) => {
    const [first, second] = ports.slice(1, -1).split(", ");
    const text = `guests:\n  a:\n    ports: [${first}]\n  b:\n    ports: [${second}]\n`;
    expect(placesOf(text)).toEqual(["5:13 port-overlap"]);
    expect(diagnosticsOf(text)[0]?.message).toContain('also published at line 3 by guest "a"');
    expect(placesOf(`guests: {a: {ports: ${ports}}}`)).toHaveLength(1);
  });

  it.each([
    ["protocols", "['53:53', '53:53/udp', '53:53/sctp']"],
    ["addresses", "['10.0.0.1:80:80', '10.0.0.2:80:80']"],
    ["families", "['0.0.0.0:80:80', '[::]:80:80', '[::]:81:80', '10.0.0.1:81:80']"],
    ["ports", "['80-89:80-89', '90-99:90-99', '79:79']"],
  ])("on different %s is valid", (_, ports) => {
    expect(placesOf(`guests: {a: {ports: ${ports}}}`)).toEqual([]);
  });

  it("is found through interfaces", () => {
    const of = (listen: string, first: string, second: string): readonly string[] =>
      placesOf(`listen: ${listen}\nguests: {a: {ports: [${first}]}, b: {ports: [${second}]}}`);
    expect(of("eth0", "'80:80'", "'80:81'")).toEqual([expect.stringMatching(/port-overlap$/)]);
    expect(of("[eth0, eth1]", "'80:80'", "'80:81'")).toHaveLength(1);
    expect(of("eth0", "'80:80'", "'0.0.0.0:80:81'")).toHaveLength(1);
    expect(of("eth0", "'[::]:80:80'", "'80:81'")).toHaveLength(1);
    expect(of("eth0", "'80:80'", "'10.0.0.1:80:81'")).toEqual([]);
  });

  it("is found where guests share an anchored list", () => {
    const text = "guests:\n  a:\n    ports: &p\n      - 80:80\n  b:\n    ports: *p\n";
    expect(placesOf(text)).toEqual(["4:9 port-overlap"]);
    expect(diagnosticsOf(text)[0]?.message).toMatch(/of guest "b" .* line 4 by guest "a"/);
  });
});

it.each([
  ["9101", "127.0.0.1:9101"],
  ["0x1000", "127.0.0.1:4096"],
  [":9101", "127.0.0.1:9101"],
  ["localhost:9101", "127.0.0.1:9101"],
  ["192.168.1.100:9101", "192.168.1.100:9101"],
  ["0.0.0.0:9101", "0.0.0.0:9101"],
  ['"[::1]:9101"', "[::1]:9101"],
  ['"[::]:9101"', "[::]:9101"],
])("metrics: %s is the endpoint %s", (text, expected) => {
  const { metrics } = read(`guests: {}\nmetrics: ${text}\n`);
  expect(metrics && formatEndpoint(metrics)).toBe(expected);
});

describe("all errors", () => {
  it("are reported in one run and in the order of the file", () => {
    const text = `lisen: x
guests:
  a:
    ports: 5
  b:
    mac: nonsense
    ports: [70000:1, 80:80]
  c:
    domain: [x]
    ports:
      - 80:81
      - {published: 9-8, target: {}, proto: x}
reach: {loopback: maybe}
linger: 5
resync: never
metrics: x
`;
    expect(placesOf(text)).toEqual([
      "1:1 unknown-key",
      "4:12 wrong-type",
      "6:10 mac",
      "7:13 port-number",
      "9:13 wrong-type",
      "11:9 port-overlap",
      "12:21 port-reversed",
      "12:34 wrong-type",
      "12:38 unknown-key",
      "13:19 bad-value",
      "14:9 duration-unit",
      "15:9 resync",
      "16:10 port-number",
    ]);
  });

  it.each([
    [
      "an unreadable listen makes no overlap",
      "listen: [5]\nguests: {a: {ports: ['1:1']}, b: {ports: ['1:1']}}",
      1,
    ],
    [
      "a listen of another type makes no overlap",
      "listen: {x: y}\nguests: {a: {ports: ['1:1']}, b: {ports: ['1:1']}}",
      1,
    ],
    ["an unreadable reach forbids no loopback", "reach: {loopback: x}\nlisten: 127.0.0.1\nguests: {}", 1],
    ["unreadable ports are not no ports", "guests: {a: {ports: x}}", 1],
    [
      "an unreadable host_ip is not listen",
      "guests: {a: {ports: [{published: 1, target: 1, host_ip: [x]}, '1:1']}}",
      1,
    ],
    [
      "an error in an anchored value is reported once",
      "guests: {a: &a {allow: [x], ports: ['1:1']}, b: {<<: *a, ports: ['2:2']}}",
      1,
    ],
  ])("are reported once: %s", (_, text, count) => {
    expect(placesOf(text)).toHaveLength(count);
  });
});

it("parses ten times the ports in less than fifty times the CPU time", () => {
  const many = (count: number): string => {
    const guests = Array.from({ length: count }, (_, guest) => {
      const ports = Array.from(
        { length: 40 },
        (__, port) => `      - ${guest * 40 + port + 1}:${port + 1}\n`,
      );
      return `  g${guest}:\n    ports:\n${ports.join("")}`;
    });
    return `guests:\n${guests.join("")}`;
  };
  // Of the processor, not of the clock: other programs take the clock's.
  const work = (count: number): number => {
    const text = many(count);
    const before = process.cpuUsage();
    expect(read(text).guests.flatMap(({ forwards }) => forwards)).toHaveLength(count * 40);
    return process.cpuUsage(before).user;
  };
  work(25);
  expect(work(250) / work(25)).toBeLessThan(50);
});
