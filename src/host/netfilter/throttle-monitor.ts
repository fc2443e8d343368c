import { setTimeout as pause } from "node:timers/promises";
import { readStat } from "../network/proc.ts";
import type { Followed } from "../exec/follow-command.ts";

/*
 * `nft monitor` is woken by each transaction, whatever it is about: a firewall that updates a set a thousand times a second
 * makes it take 2 % of a processor, most of it for waking up. Where it takes that much it is stopped for a while again
 * and again, and reads what has come meanwhile at once: half of it.
 */

const LOOK_MS = 5000;
/** In ticks of a look, 1 %: then it is worth it; and, of what it takes by turns, 0.4 %: then it is not any more. */
const BUSY_TICKS = 5;
const CALM_TICKS = 2;
/** What happens is known that much later, half of it on average. */
export const REST_MS = 200;
/** Enough to read what has come meanwhile. */
const WORK_MS = 4;
/** So many turns later it is asked whether it was: to ask each time would cost more than is saved. */
const TURNS = 5;

/**
 * Makes a program that takes much time for listening listen by turns, and go on where somebody else has stopped it. Only
 * one that dies with us: stopped, it would stay.
 * @param hasWork whether it has not read all yet: it is left to it until it has
 * @param signal ends it; the program runs freely then
 */
export async function restWhileBusy(
  program: Followed,
  hasWork: () => boolean,
  signal: AbortSignal,
): Promise<void> {
  if (!program.diesWithUs) return;
  let before = readStat(program.pid)?.ticks;
  let takesTurns = false;
  while (!signal.aborted) {
    if (takesTurns) await takeTurns(program, hasWork, signal);
    else await pause(LOOK_MS, undefined, { signal }).catch(() => undefined);
    program.send("SIGCONT");
    // Not known where no more files can be opened: then nothing is concluded.
    const now = readStat(program.pid)?.ticks;
    const ticks = now === undefined || before === undefined ? 0 : now - before;
    takesTurns = takesTurns ? ticks > CALM_TICKS : ticks >= BUSY_TICKS;
    before = now;
  }
}

/** For the time between two looks. */
async function takeTurns(program: Followed, hasWork: () => boolean, signal: AbortSignal): Promise<void> {
  const endMs = performance.now() + LOOK_MS;
  let turns = TURNS;
  while (performance.now() < endMs && !signal.aborted) {
    const isDone = !hasWork();
    if (isDone) await rest(program, turns, signal);
    else program.send("SIGCONT");
    turns = isDone ? TURNS : 1;
    await pause(WORK_MS);
  }
}

/** Plain timers, for they are many. */
function rest(program: Followed, turns: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const stop = (left: number): void => {
      if (left === 0 || signal.aborted) return done();
      program.send("SIGSTOP");
      setTimeout(goOn, REST_MS, left);
    };
    const goOn = (left: number): void => {
      program.send("SIGCONT");
      setTimeout(stop, WORK_MS, left - 1);
    };
    stop(turns);
  });
}
