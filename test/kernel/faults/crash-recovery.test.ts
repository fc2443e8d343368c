import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, it } from "vitest";
import { PROGRAM } from "../../support/lab.ts";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { createRandom } from "../../support/random.ts";
import { CLIENT, DB, leaseRow, WEB } from "../../support/world.ts";

/** The machine fails in some way: nothing is lost, and all is right once it is over. */
const SEED = Number(process.env["KVMNATD_WALK_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const KILLS = 200;
let world: DaemonWorld;

afterEach(() => world.close());

async function moveWeb(there: boolean): Promise<void> {
  await (there
    ? world.leases(
        leaseRow({ mac: WEB.mac, address: DB.address }),
        leaseRow({ mac: DB.mac, address: WEB.address }),
      )
    : world.leases());
}

it(
  `kill -9 at ${KILLS} random moments, while leases and rules change (seed ${SEED})`,
  { timeout: 600_000 },
  async () => {
    const random = createRandom(SEED);
    world = await createDaemonWorld("nft", "linger: 200ms\n");
    const foreign = await world.foreignRules();
    let there = false;
    for (let kill = 1; kill <= KILLS; kill += 1) {
      const daemon = await world.start();
      if (random.below(2) === 0) {
        there = !there;
        await moveWeb(there);
      }
      if (random.below(4) === 0) await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "PREROUTING"]);
      // Not a wait for a state: the moment in which it dies is what is tried.
      await new Promise((done) => setTimeout(done, random.below(120)));
      await daemon.kill("SIGKILL");
      await daemon.exited;
    }
    await world.start();
    await world.isWell();
    expect(await world.web()).toBe(`${there ? "db" : "web"} 22 ${CLIENT}`);
    const plan = await world.lab.kvmnatd(["plan", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir]);
    expect(plan.stdout).toContain("no changes");
    expect(await world.foreignRules()).toBe(foreign);
    expect((await world.rules("nat")).match(/-j KVMNATD-DNAT$/gm)).toHaveLength(2);
    expect((await world.rules("filter")).match(/-j KVMNATD-FWD$/gm)).toHaveLength(1);
    const leftOver = await world.lab.exec(["sh", "-c", `ls ${world.lab.dir}/run`]);
    expect(leftOver.stdout.trim()).toBe("control\nlock\nstatus.json");
  },
);

it("works beside a hundred thousand foreign rules", { timeout: 400_000 }, async () => {
  world = await createDaemonWorld("nft");
  const rules = Array.from(
    { length: 100_000 },
    (_, index) => `-A MANY -s 10.${index >> 16}.${(index >> 8) & 255}.${index & 255} -j DROP\n`,
  );
  await world.lab.exec(["iptables-nft-restore", "--noflush"], {
    input: `*filter\n:MANY - [0:0]\n${rules.join("")}-A INPUT -s 203.0.113.1 -j MANY\nCOMMIT\n`,
    timeoutMs: 180_000,
  });
  await world.start();
  await world.isWell();
  expect(await world.web()).toBe(`web 22 ${CLIENT}`);
  await moveWeb(true);
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
  expect((await world.rules("filter")).match(/^-A MANY /gm)).toHaveLength(100_000);
});

it("reports that no more files can be opened, and recovers", async () => {
  world = await createDaemonWorld("nft");
  const daemon = await world.start();
  await world.isWell();
  const { pid } = await world.status();
  const limit = (value: string): Promise<unknown> =>
    world.lab.exec(["prlimit", "--pid", `${pid}`, `--nofile=${value}`]);
  await limit("24:");
  await moveWeb(true);
  await daemon.waitForLine(/EMFILE|too many open files/i);
  await limit("1024:");
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
});

it("reports that no more processes can be made, loses nothing and recovers", async () => {
  world = await createDaemonWorld("nft");
  // Root has no such limit: a user of its own, with the capabilities that it takes to work.
  const caps = ["net_admin", "net_raw", "dac_override"].map((each) => `+${each}`).join(",");
  const user = ["setpriv", "--reuid", "12345", "--clear-groups"];
  const command = [process.execPath, PROGRAM, "run", "-c", world.config, "--dnsmasq-dir", world.dnsmasqDir];
  const daemon = world.lab.spawn([...user, "--inh-caps", caps, "--ambient-caps", caps, ...command]);
  await world.isWell();
  const { pid } = await world.status();
  // Its own, and that of the shell which starts most programs for it.
  const script = 'for pid in $1 $(pgrep -P "$1" -x sh); do prlimit --pid "$pid" --nproc="$2"; done';
  const limit = (value: string): Promise<unknown> =>
    world.lab.exec([...user, "sh", "-ec", script, "sh", `${pid}`, value]);
  await limit("1:");
  await moveWeb(true);
  await world.complains("command-failed", /EAGAIN|Cannot fork/);
  expect(await world.web()).toBe(`web 22 ${CLIENT}`);
  await limit("1000:");
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
  await world.isWell();
  await daemon.kill("SIGTERM");
  expect(await daemon.exited).toBe(0);
});

/** Shifts what the daemon takes for the time by what a file says; timers go on as ever, as with a clock that is set. */
const CLOCK = `
const { readFileSync } = require("node:fs");
const now = Date.now;
Date.now = () => now() + Number(readFileSync(process.env.CLOCK_SHIFT, "utf8"));
`;

it("keeps linger, repair and leases working when the clock is set a day forward and back", async () => {
  world = await createDaemonWorld("nft", "linger: 4s\n");
  const [preload, shift] = [join(world.lab.dir, "clock.cjs"), join(world.lab.dir, "shift")];
  const setClock = (days: number): Promise<void> => writeFile(shift, `${days * 86_400_000}`);
  await writeFile(preload, CLOCK);
  await setClock(0);
  await world.start({ NODE_OPTIONS: `--require ${preload}`, CLOCK_SHIFT: shift });
  await world.isWell();
  // Back, in the middle of linger: it must not last a day longer.
  await world.writeMacs("virbr0", { web: [WEB.mac] });
  await world.becomes("db", "active", /lingers/);
  await setClock(-1);
  await world.becomes("db", "pending", /guest is off/);
  await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "PREROUTING"]);
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`web 22 ${CLIENT}`);
  // Forward: no lease is so old; dnsmasq, which has the same clock, gives them anew.
  await setClock(1);
  await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "PREROUTING"]);
  await world.becomes("web", "pending", /has expired/);
  const later = Math.floor(Date.now() / 1000) + 86_400 + 3600;
  await world.writeLeases("virbr0", [
    leaseRow({ mac: WEB.mac, address: DB.address }, { "expiry-time": later }),
  ]);
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
  await setClock(0);
  await world.lab.exec(["iptables-nft", "-t", "nat", "-F", "PREROUTING"]);
  await expect.poll(() => world.web(), { timeout: 120_000 }).toBe(`db 22 ${CLIENT}`);
});
