import { describe, expect, it } from "vitest";
import {
  familiesOfListen,
  formatListen,
  parseGuestIp,
  parseHostIp,
  parseListen,
} from "../../../../src/config/values/listen-address.ts";
import { ip } from "../../../support/build-values.ts";
import type { Listen } from "../../../../src/config/values/listen-address.ts";

describe("an entry of listen", () => {
  it.each<[string, Listen, readonly number[]]>([
    ["0.0.0.0", { kind: "any", family: 4 }, [4]],
    ["::", { kind: "any", family: 6 }, [6]],
    ["0:0::0", { kind: "any", family: 6 }, [6]],
    ["192.168.1.100", { kind: "address", address: ip("192.168.1.100") }, [4]],
    ["169.254.169.254", { kind: "address", address: ip("169.254.169.254") }, [4]],
    ["2001:DB8:0::1", { kind: "address", address: ip("2001:db8::1") }, [6]],
    ["eth0", { kind: "interface", name: "eth0" }, [4, 6]],
    ["enp1s0.100", { kind: "interface", name: "enp1s0.100" }, [4, 6]],
    ["eth0:1", { kind: "interface", name: "eth0:1" }, [4, 6]],
    ["exactly15chars_", { kind: "interface", name: "exactly15chars_" }, [4, 6]],
  ])("%s is %j", (text, expected, families) => {
    expect(parseListen(text, false)).toEqual({ value: expected });
    expect(familiesOfListen(expected)).toEqual(families);
    expect(parseListen(formatListen(expected), false)).toEqual({ value: expected });
  });

  it.each([
    ["sixteen_chars_16", "interface-long", "15"],
    ["192.168.1.300", "listen", "neither"],
    ["010.0.0.1", "listen", "neither"],
    ["1", "listen", "neither"],
    ["", "listen", "neither"],
    ["a b", "listen", "neither"],
    ["a/b", "listen", "neither"],
    ["2001:db8:::1", "listen", "neither"],
    ["10.0.0.1/24", "listen", "write 10.0.0.1 alone"],
    ["[2001:db8::1]", "listen", "write 2001:db8::1 alone"],
    ["0.1.2.3", "host-address", "not an address of a host"],
    ["127.0.0.1", "host-address", "reach.loopback: true"],
    ["224.0.0.251", "host-address", "multicast"],
    ["255.255.255.255", "host-address", "broadcast"],
    ["::1", "host-address", "127.0.0.1"],
    ["fe80::1", "host-address", "link-local"],
    ["ff02::1", "host-address", "multicast"],
    ["::ffff:10.0.0.1", "host-address", "IPv4"],
  ])("%j is rejected: %s", (text, code, hint) => {
    expect(parseListen(text, false)).toMatchObject({
      fault: { code, message: expect.stringContaining(hint) },
    });
  });

  it("may be 127.0.0.1 when reach.loopback is on, and no other loopback address", () => {
    expect(parseListen("127.0.0.1", true)).toEqual({ value: { kind: "address", address: "127.0.0.1" } });
    for (const on of [true, false])
      expect(parseListen("127.0.0.9", on)).toMatchObject({
        fault: { message: "127.0.0.9 is a loopback address; publish on 127.0.0.1 with reach.loopback: true" },
      });
    expect(parseListen("::1", true)).toHaveProperty("fault");
  });
});

describe("HOST_IP of the short form", () => {
  it.each([
    ["0.0.0.0", { value: { kind: "any", family: 4 } }],
    ["10.0.0.1", { value: { kind: "address", address: "10.0.0.1" } }],
  ])("%s is parsed", (text, expected) => {
    expect(parseHostIp(text, false)).toEqual(expected);
  });

  it.each([
    ["eth0", "listen"],
    ["*", "not an address"],
    ["[2001:db8::1]", "write 2001:db8::1 alone"],
  ])("%s is rejected", (text, hint) => {
    expect(parseHostIp(text, false)).toMatchObject({
      fault: { code: "host-ip", message: expect.stringContaining(hint) },
    });
  });
});

it.each(["", "guest", "0.0.0.0", "127.0.0.1", "::", "::1", "fe80::1", "224.0.0.1", "ff02::1", "10.0.0.1/24"])(
  "%j cannot be a guest's address",
  (text) => {
    expect(parseGuestIp(text)).toMatchObject({ fault: { code: "guest-address" } });
  },
);
