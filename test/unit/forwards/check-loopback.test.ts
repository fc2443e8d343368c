import { describe, expect, it } from "vitest";
import { checkLoopback } from "../../../src/forwards/check-loopback.ts";
import { parsePortMap } from "../../../src/config/parse-port-map.ts";

function check(text: string): readonly string[] {
  const { value } = parsePortMap(text, "c.yaml", { isCron: () => true });
  if (value === undefined) throw new Error("the config is not valid");
  return checkLoopback(value).map(({ code, where }) => `${where?.line}:${where?.column} ${code}`);
}

describe("with reach.loopback", () => {
  it.each([
    ["warns of two other addresses", "'10.0.0.1:80:80'", "'10.0.0.2:79-81:79-81'", ["4:15 loopback-shared"]],
    [
      "warns of an interface and an address",
      "{published: 80, target: 80, host_ip: eth0}",
      "'10.0.0.2:80:80'",
      ["4:15 loopback-shared"],
    ],
    ["accepts a forward that names 127.0.0.1 itself", "'10.0.0.1:80:80'", "'127.0.0.1:80:80'", []],
    ["accepts different ports", "'10.0.0.1:80:80'", "'10.0.0.2:81:81'", []],
  ])("%s", (_, first, second, expected) => {
    const guests = `guests:\n  a: {ports: [${first}]}\n  b: {ports: [${second}]}\n`;
    expect(check(`reach: {loopback: true}\n${guests}`)).toEqual(expected);
  });
});

it("accepts one port on two addresses without reach.loopback", () => {
  expect(check("guests: {a: {ports: ['10.0.0.1:80:80']}, b: {ports: ['10.0.0.2:80:80']}}")).toEqual([]);
});
