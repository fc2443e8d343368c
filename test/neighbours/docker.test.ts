import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { LabProcess } from "../support/lab.ts";
import { createNeighbourhood } from "../support/neighbours.ts";
import type { Event, Neighbourhood, Place } from "../support/neighbours.ts";

/** Containers are none of our business, so that dockerd need not manage any cgroup: it only looks that they are there. */
const CGROUPS = "mount -t cgroup2 none /sys/fs/cgroup && mount -o remount,bind,ro /sys/fs/cgroup";

/** Docker makes DROP the policy of FORWARD where it finds forwarding switched off, as at the boot of most hosts. */
const AS_AT_BOOT = "echo 0 >/proc/sys/net/ipv4/ip_forward";

const running = new Map<Place, LabProcess>();

async function start(place: Place): Promise<void> {
  const docker = place.spawn(["dockerd", "--storage-driver=vfs"]);
  await docker.waitForLine(/API listen on/);
  running.set(place, docker);
}

async function stop(place: Place): Promise<void> {
  await running.get(place)?.kill("SIGTERM");
  await running.get(place)?.exited;
}

const request = (method: string, path: string, body = ""): string => `
printf '${method} ${path} HTTP/1.0\\r\\nContent-Type: application/json\\r\\nContent-Length: ${body.length}\\r\\n\\r\\n${body}' |
  socat -t 10 - UNIX-CONNECT:/run/docker.sock | grep -q '^HTTP/1.[01] 20'`;

const OWN =
  '{"Name": "own", "IPAM": {"Config": [{"Subnet": "172.30.0.0/16"}]}, ' +
  '"Options": {"com.docker.network.bridge.name": "br-own"}}';

const EVENTS: readonly (readonly [name: string, event: Event, said: unknown])[] = [
  ["a network comes", request("POST", "/networks/create", OWN), 0],
  ["stop", stop, undefined],
  ["start", start, undefined],
  ["the network goes", request("DELETE", "/networks/own"), 0],
];

describe("beside Docker, whose policy for FORWARD is DROP", () => {
  let hood: Neighbourhood;

  beforeAll(async () => {
    hood = await createNeighbourhood(async (place) => {
      expect(await place.sh(`${CGROUPS} && ${AS_AT_BOOT}`)).toBe(0);
      await start(place);
    });
  });
  beforeEach(({ onTestFailed }) => onTestFailed(() => hood.dump()));
  afterAll(() => hood.close());

  it.each(EVENTS)("%s", async (name, event, said) => {
    const { theirs, ...outcome } = await hood.play(name, event);
    expect(outcome).toEqual({ byHand: "answers", kept: "answers", repaired: false });
    expect(theirs.kept).toEqual(theirs.byHand);
    expect(theirs.kept).toMatchObject({ said });
    expect(theirs.kept.rules).toContain(":FORWARD DROP\n");
    expect(theirs.kept.rules).toContain("-A FORWARD -j DOCKER-USER\n");
  });
});
