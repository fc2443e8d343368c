import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { networkOf } from "../../src/net/address.ts";
import { buildDesired } from "../../src/rules/desired.ts";
import { diffRulesets } from "../../src/rules/diff.ts";
import { readIncumbents } from "../../src/rules/read-incumbents.ts";
import { buildAuditEntries, describeGuests, describeIncumbents } from "../../src/log/audit-entries.ts";
import { parseDomainMacs, parseLeases } from "../../src/leases/parse-lease-files.ts";
import { parsePortMap } from "../../src/config/parse-port-map.ts";
import { renderRestore } from "../../src/rules/restore.ts";
import { resolveForwards } from "../../src/forwards/resolve.ts";
import { ip, NOW, resolveInputs } from "../support/build-values.ts";
import { createFakeIptables } from "../support/fake-iptables.ts";

/*
 * A story is a file that an admin can read: the port map, libvirt's files, the ruleset before; and then what kvmnatd
 * says and the ruleset after. virbr0 is 192.168.122.1/24; expiry-time is in seconds from now.
 */
const STORIES = join(import.meta.dirname, "stories");

it.each(readdirSync(STORIES))("%s", (name) => {
  const story = readSections(readFileSync(join(STORIES, name), "utf8"));
  const section = (title: string): string => story.get(title) ?? "";
  const { value: portMap, diagnostics } = parsePortMap(section("kvmnatd.yaml"), "kvmnatd.yaml", {
    isCron: () => true,
  });
  if (portMap === undefined) throw new Error(diagnostics.map(({ message }) => message).join("\n"));
  const bytes = (title: string): Uint8Array =>
    new TextEncoder().encode(section(title).replaceAll(/NOW\+(\d+)/g, later));
  const network = {
    bridge: "virbr0",
    subnets: [{ cidr: networkOf(ip("192.168.122.1"), 24), own: ip("192.168.122.1") }],
    leases: parseLeases(bytes("virbr0.status"), "virbr0.status", "virbr0").value,
    domains: parseDomainMacs(bytes("virbr0.macs"), "virbr0.macs", "virbr0").value,
  };
  const host = new Map([["eth0", [ip("192.168.1.100"), ip("192.168.1.101")]]]);
  const kernel = createFakeIptables(section("before"));
  const incumbents = readIncumbents(portMap, new Map([[4, kernel.read()]]));

  const { forwards } = resolveForwards(portMap, incumbents, resolveInputs([network], host));
  const desired = buildDesired({ portMap, forwards, networks: [network] }, 4, new Set());
  const diff = diffRulesets(desired, kernel.read());
  const changes = diff.map((change) => ({ family: 4 as const, change }));
  const said = buildAuditEntries(
    { before: describeIncumbents(incumbents), now: describeGuests(forwards), changes },
    { number: 1, trigger: "story" },
  );
  kernel.restore(renderRestore(diff));

  expect(said.map(({ message }) => `${message}\n`).join("")).toBe(section("says"));
  expect(rulesOf(kernel.save())).toBe(section("after"));
});

function later(_match: string, seconds: string): string {
  return String(NOW / 1000 + Number(seconds));
}

function readSections(text: string): ReadonlyMap<string, string> {
  const parts = text.split(/^=== (.*)\n/m).slice(1);
  return new Map(
    parts.flatMap((title, index) =>
      index % 2 === 0 ? [[title, `${(parts[index + 1] ?? "").trim()}\n`]] : [],
    ),
  );
}

/** The rules by table, without the empty chains that every ruleset has. */
function rulesOf(save: string): string {
  return save
    .split("\n")
    .filter((line) => /^(\*|-A|:KVMNATD)/.test(line))
    .map((line) => `${line.replace(/ - \[0:0\]$/, "")}\n`)
    .join("");
}
