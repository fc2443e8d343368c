import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  decodeOwnerName,
  formatOwner,
  encodeOwnerName,
  ownerOf,
  parseOwner,
} from "../../../src/rules/ownership.ts";
import { domain, guest, MAC_A } from "../../support/build-values.ts";

describe("a forward's comment", () => {
  it.each([
    [guest("web", domain("web")), "kvmnatd:web 52:54:00:6c:3c:01"],
    [guest("web", domain("other")), "kvmnatd:web domain=other 52:54:00:6c:3c:01"],
    [guest("game", { kind: "mac", mac: MAC_A }), "kvmnatd:game mac 52:54:00:6c:3c:01"],
    [guest("pc", { kind: "hostname", hostname: "my pc" }), "kvmnatd:pc hostname=my%20pc 52:54:00:6c:3c:01"],
    [guest('a"b\n@', domain('a"b\n@')), "kvmnatd:a%22b%0a%40 52:54:00:6c:3c:01"],
  ])("names the guest, its identity and its MAC (%#)", (owner, expected) => {
    expect(formatOwner(ownerOf(owner, MAC_A))).toBe(expected);
    expect(parseOwner(expected)).toEqual(ownerOf(owner, MAC_A));
    expect(decodeOwnerName(encodeOwnerName(owner.name))).toBe(owner.name);
  });

  it("fits into the kernel's 255 characters and needs no escape, whatever the names are", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary", minLength: 1 }),
        fc.string({ unit: "binary", minLength: 1 }),
        (name, host) => {
          const comment = formatOwner(ownerOf(guest(name, { kind: "hostname", hostname: host }), MAC_A));
          expect(comment).toMatch(/^kvmnatd:[A-Za-z0-9._%~-]+ hostname=[A-Za-z0-9._%~-]+ 52:54:00:6c:3c:01$/);
          expect(comment.length).toBeLessThanOrEqual(255);
        },
      ),
    );
  });

  it("has no owner when the rule serves several guests or is foreign", () => {
    expect(parseOwner("kvmnatd:@virbr0")).toBeUndefined();
    expect(parseOwner("something else")).toBeUndefined();
  });
});
