import { expect, it } from "vitest";
import { findMissingJump } from "../../../src/core/libvirt-rules.ts";
import { parseSave } from "../../../src/core/parse-save.ts";

const CHAIN = ":LIBVIRT_FWI - [0:0]\n";
const REJECT = "-A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable\n";
const JUMP = "-A FORWARD -j LIBVIRT_FWI\n";

it.each([
  ["the jump is there", CHAIN + JUMP + REJECT, 0],
  ["the jump is missing", CHAIN + REJECT, 1],
  ["no network is up", CHAIN, 0],
  ["libvirt has no rules here", "", 0],
])("%s", (_what, rules, problems) => {
  expect(findMissingJump(parseSave(`*filter\n:FORWARD ACCEPT [0:0]\n${rules}COMMIT\n`))).toHaveLength(
    problems,
  );
});
