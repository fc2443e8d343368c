import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ownerComment, ownerName, parseOwner } from "../../../src/rules/ownership.ts";
import { domain, guest, MAC_A } from "../../support/build-values.ts";

describe("a forward's comment", () => {
  it.each([
    [guest("web", domain("web")), "kvmnatd:web 52:54:00:6c:3c:01"],
    [guest("web", domain("other")), "kvmnatd:web domain=other 52:54:00:6c:3c:01"],
    [guest("game", { kind: "mac", mac: MAC_A }), "kvmnatd:game mac 52:54:00:6c:3c:01"],
    [guest("pc", { kind: "hostname", hostname: "my pc" }), "kvmnatd:pc hostname=my%20pc 52:54:00:6c:3c:01"],
    [guest('a"b\n@', domain('a"b\n@')), "kvmnatd:a%22b%0a%40 52:54:00:6c:3c:01"],
  ])("%#", (owner, expected) => {
    expect(ownerComment(owner, MAC_A)).toBe(expected);
    expect(parseOwner(expected)).toMatchObject({ name: ownerName(owner.name), mac: MAC_A });
  });

  it("fits into the kernel's 255 characters, breaks no line and needs no escape, whatever the names", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary", minLength: 1 }),
        fc.string({ unit: "binary", minLength: 1 }),
        (name, host) => {
          const comment = ownerComment(guest(name, { kind: "hostname", hostname: host }), MAC_A);
          expect(comment).toMatch(/^kvmnatd:[A-Za-z0-9._%~-]+ hostname=[A-Za-z0-9._%~-]+ 52:54:00:6c:3c:01$/);
          expect(comment.length).toBeLessThanOrEqual(255);
        },
      ),
    );
  });

  it("of what serves no single guest belongs to none", () => {
    expect(parseOwner("kvmnatd:@virbr0")).toBeUndefined();
    expect(parseOwner("something else")).toBeUndefined();
  });
});
