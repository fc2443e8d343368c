import { expect, it } from "vitest";
import { networkOf } from "../../../src/net/address.ts";
import {
  diffLibvirtTable,
  findNftBridges,
  buildNftForwardRules,
  parseLibvirtTable,
  renderNft,
} from "../../../src/rules/libvirt-table.ts";
import { ip } from "../../support/build-values.ts";
import type { Actual } from "../../../src/rules/ruleset.ts";

/** Captured: libvirt 11.3 with one network, `nft --stateless --handle list table ip libvirt_network` of nftables 1.1.3. */
const CAPTURED = `table ip libvirt_network { # handle 1
	chain forward { # handle 1
		type filter hook forward priority filter; policy accept;
		counter jump guest_cross # handle 5
		counter jump guest_input # handle 6
		counter jump guest_output # handle 7
	}

	chain guest_input { # handle 3
		oif "virbr0" ip daddr 192.168.122.0/24 ct state established,related counter accept # handle 10
		oif "virbr0" counter reject # handle 11
	}
}
`;
const OURS = buildNftForwardRules("virbr0", networkOf(ip("192.168.122.1"), 24));
const rulesOf = (...rules: readonly string[]): string =>
  `	chain kvmnatd { # handle 13\n${rules.map((rule, index) => `\t\t${rule} # handle ${20 + index}\n`).join("")}\t}\n`;
const JUMP = '\t\tjump kvmnatd comment "kvmnatd:@jump" # handle 16\n';
const withOurs = (text: string, rules = OURS, jump = JUMP): string =>
  text
    .replace("\t\tcounter jump guest_cross", `${jump}\t\tcounter jump guest_cross`)
    .replace(/\}\n$/, `${rulesOf(...rules)}}\n`);

function actual(text: string, fwi: readonly string[] = []): Actual {
  const tables = { raw: new Map(), nat: new Map(), filter: new Map([["LIBVIRT_FWI", fwi]]) };
  return { tables, dropping: new Set(), libvirt: parseLibvirtTable(text) };
}

function script(desired: readonly string[], text: string): string {
  return renderNft(4, diffLibvirtTable(desired, parseLibvirtTable(text)));
}

it("reads the rules of a chain once when nft lists the chain twice", () => {
  const again = "\tchain guest_input { # handle 3\n\t}\n\tchain forward { # handle 1\n\t}\n";
  const table = parseLibvirtTable(CAPTURED);
  expect(parseLibvirtTable(CAPTURED.replace(/\}\n$/, `${again}}\n`))).toEqual(table);
  expect(parseLibvirtTable(CAPTURED.replace("\n", `\n${again}`))).toEqual(table);
  expect(parseLibvirtTable(CAPTURED + CAPTURED)).toEqual(table);
});

it("reads the rules and handles that nft prints", () => {
  const table = parseLibvirtTable(CAPTURED);
  expect([...table.keys()]).toEqual(["forward", "guest_input"]);
  expect(table.get("forward")?.[1]).toEqual({ rule: "counter jump guest_input", handle: 6 });
});

it("creates the chain, its rules and one jump before libvirt's", () => {
  expect(script(OURS, CAPTURED)).toBe(
    [
      "add chain ip libvirt_network kvmnatd",
      ...OURS.map((rule) => `add rule ip libvirt_network kvmnatd ${rule}`),
      'insert rule ip libvirt_network forward jump kvmnatd comment "kvmnatd:@jump"',
      "",
    ].join("\n"),
  );
});

it("changes nothing when everything exists, or without libvirt's table", () => {
  expect(script(OURS, withOurs(CAPTURED))).toBe("");
  expect(diffLibvirtTable(OURS, undefined)).toEqual([]);
});

it("keeps a foreign rule whose comment begins like ours", () => {
  const admin = '\t\tip saddr 10.0.0.1 accept comment "kvmnatd: mine" # handle 30\n';
  expect(script([], withOurs(CAPTURED, OURS, admin + JUMP))).not.toContain("handle 30");
});

it("keeps an accept before the jump", () => {
  const admin = '\t\tip saddr 10.0.0.1 accept comment "admin" # handle 30\n';
  expect(script(OURS, withOurs(CAPTURED, OURS, admin + JUMP))).toBe("");
});

it("does not judge a rule by the text of its comment", () => {
  const admin = '\t\ttcp dport 9 accept comment "stands where jump kvmnatd was, do not drop" # handle 30\n';
  expect(script(OURS, withOurs(CAPTURED, OURS, admin + JUMP))).toBe("");
});

it("does not read a rule or chain from a line break in a comment", () => {
  const comment = "x\n\t\tjump kvmnatd # handle 5\n\tchain kvmnatd { # handle 9\n";
  const odd = `\t\tcounter comment "${comment}" # handle 30\n\t\toif "q"q" counter # handle 31\n`;
  const table = parseLibvirtTable(CAPTURED.replace("\t\tcounter jump guest_cross", `${odd}$&`));
  expect([...table.keys()]).toEqual(["forward", "guest_input"]);
  expect(table.get("forward")?.map(({ handle }) => handle)).toEqual([30, 31, 5, 6, 7]);
  expect(script(OURS, withOurs(CAPTURED, OURS, odd + JUMP))).toBe("");
});

it.each([
  ["a reject", "reject # handle 30"],
  ["a jump", "counter jump guest_input # handle 30"],
])("moves the jump before %s that another program inserted", (_what, rule) => {
  expect(script(OURS, withOurs(CAPTURED, OURS, `\t\t${rule}\n${JUMP}`))).toBe(
    'delete rule ip libvirt_network forward handle 16\ninsert rule ip libvirt_network forward jump kvmnatd comment "kvmnatd:@jump"\n',
  );
});

it("removes a second jump, and foreign rules in our chain", () => {
  expect(script(OURS, withOurs(CAPTURED, [...OURS, "drop"], JUMP + JUMP.replace("16", "17")))).toBe(
    "delete rule ip libvirt_network forward handle 17\ndelete rule ip libvirt_network kvmnatd handle 22\n",
  );
});

it("removes the copy of a duplicated rule", () => {
  expect(script(OURS, withOurs(CAPTURED, [...OURS, ...OURS.slice(0, 1)]))).toBe(
    "delete rule ip libvirt_network kvmnatd handle 22\n",
  );
});

it("removes the jump, the rules and the chain", () => {
  expect(script([], withOurs(CAPTURED))).toBe(
    [
      "delete rule ip libvirt_network forward handle 16",
      "delete rule ip libvirt_network kvmnatd handle 20",
      "delete rule ip libvirt_network kvmnatd handle 21",
      "delete chain ip libvirt_network kvmnatd",
      "",
    ].join("\n"),
  );
});

it("recognises a network by libvirt's reject, and keeps it while libvirt rewrites its rules", () => {
  const rewriting = withOurs(CAPTURED).replaceAll(/\t\toif .*\n/g, "");
  expect([...findNftBridges(actual(CAPTURED))]).toEqual(["virbr0"]);
  expect([...findNftBridges(actual(rewriting))]).toEqual(["virbr0"]);
  expect([...findNftBridges(actual(rewriting, ["-o virbr0 -j REJECT"]))]).toEqual([]);
  expect([...findNftBridges(undefined)]).toEqual([]);
});
