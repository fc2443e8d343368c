import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { until } from "../support/lab.ts";
import type { LabProcess } from "../support/lab.ts";
import { createNeighbourhood } from "../support/neighbours.ts";
import type { Event, Neighbourhood, Place } from "../support/neighbours.ts";

const running = new Map<Place, LabProcess>();

async function start(place: Place): Promise<void> {
  running.set(place, place.spawn(["firewalld", "--nofork", "--nopid"]));
  await until("firewalld runs", async () => (await place.sh("firewall-cmd --state")) === 0);
}

async function stop(place: Place): Promise<void> {
  await running.get(place)?.kill("SIGTERM");
  await running.get(place)?.exited;
}

/** libvirt puts its bridges into the zone that it brings along. */
const BEFORE = `
mkdir -p /run/dbus && dbus-daemon --system --fork --nopidfile &&
firewall-offline-cmd --zone=libvirt --add-interface=virbr0 --add-interface=virbr1`;

const DIRECT = "firewall-cmd --permanent --direct --add-rule ipv4 filter INPUT 0 -s 203.0.113.9 -j DROP";

/** In between nobody gets through, beside kvmnatd either: that is what it is for. */
async function panic(place: Place): Promise<string> {
  await place.sh("firewall-cmd --panic-on");
  const answer = await place.world.web();
  await place.sh("firewall-cmd --panic-off");
  return answer;
}

/** Event, what the neighbour says, and what becomes of a forward made by hand. */
const EVENTS: readonly (readonly [name: string, event: Event, said: unknown, byHand: string])[] = [
  ["start", start, undefined, "answers"],
  ["--reload", "firewall-cmd --reload", 0, "answers"],
  ["--complete-reload", "firewall-cmd --complete-reload", 0, "answers"],
  ["panic on and off", panic, "denied", "answers"],
  ["--reload when a direct rule has come", `${DIRECT} && firewall-cmd --reload`, 0, "nothing"],
  ["--reload with a direct rule", "firewall-cmd --reload", 0, "nothing"],
  ["--complete-reload with a direct rule", "firewall-cmd --complete-reload", 0, "nothing"],
  ["panic on and off with a direct rule", panic, "denied", "answers"],
  ["restart with a direct rule", (place) => stop(place).then(() => start(place)), undefined, "nothing"],
  ["stop with a direct rule", stop, undefined, "nothing"],
];

describe("beside firewalld", () => {
  let hood: Neighbourhood;

  beforeAll(async () => {
    hood = await createNeighbourhood(async (place) => expect(await place.sh(BEFORE)).toBe(0));
  });
  beforeEach(({ onTestFailed }) => onTestFailed(() => hood.dump()));
  afterAll(() => hood.close());

  it.each(EVENTS)("%s", async (name, event, said, byHand) => {
    const { theirs, ...outcome } = await hood.play(name, event);
    expect(outcome).toEqual({ byHand, kept: "answers", repaired: byHand === "nothing" });
    expect(theirs.kept).toEqual(theirs.byHand);
    expect(theirs.kept).toMatchObject({ said });
  });
});
