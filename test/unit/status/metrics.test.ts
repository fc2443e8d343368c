import { describe, expect, it } from "vitest";
import { countNew, triggerKind } from "../../../src/status/metrics.ts";

describe("triggerKind", () => {
  it.each([
    ["start", "start"],
    ["SIGHUP", "reload"],
    ["ruleset changed", "rules"],
    ["address or link changed", "links"],
    ["virbr0.status", "leases"],
    ["br.status.macs", "leases"],
    ["libvirt's networks", "leases"],
    ["monitor of links runs", "other"],
  ])("of %s is %s, with any other trigger of the pass", (trigger, kind) => {
    expect(triggerKind([trigger, "config"])).toBe(kind);
  });

  it("is timer when the pass has no other trigger", () => {
    expect(triggerKind([])).toBe("timer");
  });
});

it("countNew counts an error that stays once, and one that comes again twice", () => {
  expect(countNew(["x", "y"])).toBe(2);
  expect(countNew(["x", "y"], ["x", "y"])).toBe(0);
  expect(countNew(["x", "y"], ["x"])).toBe(1);
});
