import { copyFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { startDaemon } from "../../support/lab.ts";
import { CLIENT, HOST, LIBVIRT_TABLE } from "../../support/world.ts";

/** Names and tables that nobody expects: they hide nothing else. */
const SOON = { timeout: 120_000 };
const WEB_ANSWERS = `web 22 ${CLIENT}`;
let world: DaemonWorld;

afterEach(() => world.close());

describe("links with unusual names", () => {
  it.each([
    ["a control character", ["e\u001b[31m"]],
    ["a quote and a backslash", ['q"q', "b\\b"]],
    ["bytes that are no UTF-8, which look alike", ["$'\\xff'", "$'\\xfe'"]],
  ])("%s: the daemon follows the addresses of all links", async (_what, names) => {
    world = await createDaemonWorld("nft");
    const daemon = await world.start();
    await world.isWell();
    for (const [index, name] of names.entries()) {
      const word = name.startsWith("$") ? name : `'${name}'`;
      await world.lab.exec(["bash", "-ec", `ip link add name ${word} type bridge`]);
      await world.lab.exec(["bash", "-ec", `ip address add 198.18.${index}.1/24 dev ${word}`]);
    }
    // An address that only a link with such a name has is one of the host's.
    const ports = names.map((_, index) => `'198.18.${index}.1:22${index}:22'`);
    await world.configure(`guests:\n  web: {ports: [1122:22, ${ports.join(", ")}]}\n`);
    await expect.poll(() => world.rules("nat"), SOON).toContain(`-d 198.18.${names.length - 1}.1/32`);
    await world.reload();
    await world.isWell();
    const { problems } = await world.status();
    expect(problems.map(({ code }) => code)).toEqual([]);
    await daemon.stop();
  });
});

it("a config whose name ends in .new is followed", async () => {
  world = await createDaemonWorld("nft");
  const config = join(world.lab.dir, "map.new");
  await copyFile(world.config, config);
  const daemon = await startDaemon(world.lab, ["-c", config, "--dnsmasq-dir", world.dnsmasqDir]);
  await world.isWell();
  await world.settles();
  await writeFile(config, (await readFile(config, "utf8")).replace("1122:22", "1122:22, 1123:22"));
  await expect.poll(() => world.ask("client", "tcp", HOST, 1123), SOON).toBe(`web 22 ${CLIENT}`);
  await daemon.stop();
});

it("libvirt's IPv6 table is read when there is none for IPv4", async () => {
  world = await createDaemonWorld("nft");
  const table = LIBVIRT_TABLE.replace("table ip ", "table ip6 ")
    .replaceAll("ip daddr 192.168.122.0/24", "ip6 daddr fd00:122::/64")
    .replaceAll("ip saddr 192.168.122.0/24", "ip6 saddr fd00:122::/64");
  const ours = '"add rule ip6 libvirt_network kvmnatd counter accept"';
  await world.lab.exec(["nft", "-f", "-"], { input: table });
  await world.lab.exec(["sh", "-ec", `nft add chain ip6 libvirt_network kvmnatd; nft ${ours}`]);
  expect((await world.lab.kvmnatd(["teardown"])).stdout).toContain("nft delete chain ip6 libvirt_network");
  expect((await world.lab.exec(["nft", "list", "tables"])).stdout).toContain("table ip6 libvirt_network");
  expect((await world.lab.exec(["nft", "list", "ruleset"])).stdout).not.toContain("chain kvmnatd");
  await world.start();
  await expect.poll(() => world.web(), SOON).toBe(WEB_ANSWERS);
});
