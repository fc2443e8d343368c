import { chmod, writeFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createDaemonWorld, GUESTS } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";

let world: DaemonWorld;
beforeEach(async () => {
  world = await createDaemonWorld();
});
afterEach(() => world.close());

const ask = async (what: "reload" | "handover"): Promise<{ exitCode: number; said: string }> => {
  const { exitCode, stdout, stderr } = await world.lab.kvmnatd([what]);
  return { exitCode, said: stdout + stderr };
};

describe("kvmnatd reload", () => {
  it("returns when the new config is in force", async () => {
    await world.start();
    await world.isWell();
    for (const port of [1301, 1302, 1303]) {
      await world.configure(`guests:\n  web: {ports: [${port}:22]}\n`);
      expect(await ask("reload")).toEqual({ exitCode: 0, said: "" });
      expect(await world.rules("nat")).toContain(`--dport ${port} `);
    }
  });

  it("reports every error with its place, and keeps the config in force", async () => {
    await world.start();
    await world.isWell();
    await world.configure("guests:\n  web: {ports: [99999:22]}\n  db: {ports: [1222:22], nmae: 1}\n");
    const { exitCode, said } = await ask("reload");
    expect(exitCode).toBe(78);
    expect(said).toMatch(/kvmnatd\.yaml:4:17: .*99999/);
    expect(said).toMatch(/> \d+ \|/);
    expect(said).toMatch(/nmae/);
    expect(said).toMatch(/stays in force/);
    expect(await world.web()).toContain("web");
    await world.configure(GUESTS);
    expect(await ask("reload")).toEqual({ exitCode: 0, said: "" });
  });

  it("reports that the kernel rejects the rules", async () => {
    await world.start();
    await world.isWell();
    const { stdout } = await world.lab.exec(["sh", "-c", "command -v iptables-nft-restore"]);
    const program = stdout.trim();
    await writeFile(`${world.lab.dir}/fails`, "#!/bin/sh\necho 'out of order' >&2\nexit 4\n");
    await chmod(`${world.lab.dir}/fails`, 0o755);
    await world.lab.exec(["mount", "--bind", `${world.lab.dir}/fails`, program]);
    await world.configure("guests:\n  web: {ports: [1301:22]}\n");
    const failed = await ask("reload");
    await world.lab.exec(["umount", program]);
    expect(failed.exitCode).toBe(1);
    expect(failed.said).toMatch(/out of order/);
    expect(await ask("reload")).toEqual({ exitCode: 0, said: "" });
  });

  it("reports that no daemon runs", async () => {
    const { exitCode, said } = await ask("reload");
    expect(exitCode).toBe(4);
    expect(said).toMatch(/does not run/);
  });

  it("is allowed for root and the daemon's user only", async () => {
    await world.start();
    await world.isWell();
    const { stdout } = await world.lab.exec(["stat", "-c", "%a", `${world.lab.dir}/run/control`]);
    expect(stdout.trim()).toBe("600");
  });

  it("survives clients that send nothing, nonsense or too much", async () => {
    await world.start();
    await world.isWell();
    const socket = `UNIX-CONNECT:${world.lab.dir}/run/control`;
    for (const input of ["", "nonsense\n", "x".repeat(100_000)])
      await world.lab.exec(["socat", "-t1", "-", socket], { input, check: false });
    expect(await ask("reload")).toEqual({ exitCode: 0, said: "" });
  });
});

describe("kvmnatd handover", () => {
  it("leaves the rules for the next daemon once, whatever on_stop says", async () => {
    await world.configure(`on_stop: remove\n${GUESTS}`);
    const first = await world.start();
    await world.isWell();
    expect((await ask("handover")).exitCode).toBe(0);
    expect(await first.stop()).toBe(0);
    expect(await world.web()).toContain("web");
    const second = await world.start();
    await world.isWell();
    expect(await second.stop()).toBe(0);
    expect(await world.rules("nat")).not.toContain("KVMNATD");
    const events = second.log().map(({ event }) => event);
    const removal = events.slice(events.lastIndexOf("rules-removed"));
    expect([...new Set(removal)]).toEqual(["rules-removed", "rule", "stop"]);
  });
});
