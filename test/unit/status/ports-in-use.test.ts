import { describe, expect, it } from "vitest";
import { updatePortsInUse } from "../../../src/status/ports-in-use.ts";
import type { Listener } from "../../../src/status/ports-in-use.ts";
import type { ForwardStatus, PublishedProblem } from "../../../src/status/status.ts";
import { forwardStatus } from "../../support/status-values.ts";

const FORWARD = forwardStatus({ published: "1122-1124", target: "22-24", listen: ["192.168.1.100"] });
const OTHER: PublishedProblem = {
  code: "change-monitoring-degraded",
  message: "no nft",
  severity: "warning",
};
const stale = (port: number): PublishedProblem => ({
  code: "port-in-use",
  message: `port ${port}/tcp of this host is in use by sshd (pid 7); clients`,
  severity: "warning",
});

/** The first words of each problem. */
function update(
  more: Partial<ForwardStatus>,
  listener: Partial<Listener>,
  problems = [OTHER],
): readonly string[] {
  const sshd: Listener = { protocol: "tcp", address: "0.0.0.0", port: 1123, process: "sshd (pid 9)" };
  return updatePortsInUse({ forwards: [{ ...FORWARD, ...more }], problems }, [{ ...sshd, ...listener }]).map(
    ({ message }) => message.split(";", 1)[0] ?? "",
  );
}

const REPORTED = ["no nft", "port 1123/tcp of this host is in use by sshd (pid 9)"];

describe("the ports in use of a status", () => {
  it.each([
    ["everywhere", {}, {}, REPORTED],
    ["at its address", {}, { address: "192.168.1.100" }, REPORTED],
    ["at any address", { listen: [] }, { address: "192.168.1.7" }, REPORTED],
    ["at another address", {}, { address: "192.168.1.7" }, ["no nft"]],
    ["in another family", { listen: [], family: 6 as const }, {}, ["no nft"]],
    ["on another port", {}, { port: 1125 }, ["no nft"]],
    ["with another protocol", {}, { protocol: "udp" as const }, ["no nft"]],
    ["on an interface that has no address", { listen: ["eth1"] }, {}, ["no nft"]],
    ["on 127.0.0.1, published too", { listen: ["127.0.0.1"] }, { address: "127.0.0.1" }, REPORTED],
    ["on 127.0.0.1, not published", {}, { address: "127.0.0.1" }, ["no nft"]],
  ])("are only those that a forward publishes: a program listens %s", (_, forward, listener, expected) => {
    expect(update(forward, listener)).toEqual(expected);
  });

  it("include 127.0.0.1 only if the daemon reported it: only the daemon reads whether reach.loopback publishes it", () => {
    const loopback = { address: "127.0.0.1" };
    expect(update({ listen: [] }, loopback)).toEqual(["no nft"]);
    expect(update({ listen: [] }, loopback, [stale(1123), OTHER])).toEqual(REPORTED);
  });

  it("drop a program that no longer listens", () => {
    expect(update({}, { port: 1125 }, [stale(1123), OTHER])).toEqual(["no nft"]);
  });

  it("keep the daemon's name of the process when the caller may not read it", () => {
    const named = "port 1123/tcp of this host is in use by sshd (pid 7)";
    expect(update({}, { process: "a process" }, [stale(1123)])).toEqual([named]);
  });
});
