import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createDaemonWorld } from "../../support/daemon-world.ts";
import type { DaemonWorld } from "../../support/daemon-world.ts";
import { CLIENT, CLIENT_SECOND, HOST, HOST_SECOND } from "../../support/world.ts";

/** A SYN of Linux over IPv4; of a connection the nat table sees no other packet. */
const SYN_BYTES = 60;
const CONFIG = `
listen: [${HOST}, ${HOST_SECOND}]
guests:
  web: {ports: ["${HOST}:1122:22", "${HOST_SECOND}:1122:22"]}
  db: {allow: [${CLIENT}, ${CLIENT_SECOND}], ports: [1222:22, "0.0.0.0:1322-1323:22-23"]}
`;

describe.each(["nft", "legacy"] as const)("packets and bytes in status, iptables-%s", (variant) => {
  let world: DaemonWorld;
  const ask = async (host: string, port: number, source: string): Promise<void> => {
    expect(await world.ask("client", "tcp", host, port, source)).not.toBe("denied");
  };

  beforeAll(async () => {
    world = await createDaemonWorld(variant);
    await world.configure(CONFIG);
    await world.start();
    await world.isWell();
  });
  afterAll(() => world.close());

  it("are those of the forward, of all its addresses and sources, and of no other forward", async () => {
    await ask(HOST, 1122, CLIENT);
    for (const source of [CLIENT, CLIENT_SECOND]) await ask(HOST_SECOND, 1122, source);
    await ask(HOST, 1222, CLIENT);
    await ask(HOST_SECOND, 1222, CLIENT);
    await ask(HOST, 1222, CLIENT_SECOND);
    await ask(HOST, 1322, CLIENT);
    const { forwards } = await world.shownStatus();
    const counted = forwards.map(({ guest, published, packets, bytes }) => [
      guest,
      published,
      packets,
      bytes,
    ]);
    const of = (count: number): readonly number[] => [count, count * SYN_BYTES];
    expect(counted).toEqual([
      ["web", "1122", ...of(1)],
      ["web", "1122", ...of(2)],
      ["db", "1222", ...of(3)],
      ["db", "1322-1323", ...of(1)],
    ]);
  });
});
