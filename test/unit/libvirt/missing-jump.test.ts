import { expect, it } from "vitest";
import { findMissingJump, findRejectElsewhere } from "../../../src/libvirt/missing-jump.ts";
import { parseSave } from "../../../src/rules/parse-save.ts";

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

const TABLE = new Map([
  ["forward", [{ rule: "counter jump guest_input", handle: 1 }]],
  ["guest_input", [{ rule: 'oif "virbr0" counter reject', handle: 2 }]],
]);

it.each([
  ["the jump is there", TABLE, []],
  ["the jump is missing", new Map([...TABLE, ["forward", []]]), [/guest_input .* virbr0 are open/]],
])("libvirt's own table: %s", (_what, libvirt, messages) => {
  const found = findMissingJump({ ...parseSave(""), libvirt });
  expect(found.map(({ message }) => message)).toEqual(messages.map((each) => expect.stringMatching(each)));
});

it.each([
  ["libvirt rejects there", CHAIN + JUMP + REJECT, 1],
  ["nothing leads to its chain", CHAIN + REJECT, 0],
  ["its network is down", CHAIN + JUMP, 0],
  ["it rejects for another bridge", CHAIN + JUMP + REJECT.replace("virbr0", "virbr9"), 0],
])("in the other variant %s", (_what, rules, problems) => {
  const other = parseSave(`*filter\n:FORWARD ACCEPT [0:0]\n${rules}COMMIT\n`);
  expect(findRejectElsewhere("nft", other, ["virbr0"])).toHaveLength(problems);
});
