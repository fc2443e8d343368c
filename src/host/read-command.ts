import { setTimeout } from "node:timers/promises";
import { runCommand, runTogether } from "./run-command.ts";

/** How long a reading waits for others to go with. */
const WINDOW_MS = 1;

type Argv = readonly string[];
type Texts = ReadonlyMap<Argv, string>;

let waiting: Argv[] = [];
let reading: Promise<Texts> | undefined;

/**
 * What a program prints that only reads. Readings that are asked for at the same time run together.
 * @throws CommandError as `runCommand` does
 */
export async function readCommand(argv: Argv): Promise<string> {
  waiting.push(argv);
  reading ??= setTimeout(WINDOW_MS).then(() => readWaiting());
  const texts = await reading;
  // One of them failed: each for itself tells which, and why.
  return texts.get(argv) ?? (await runCommand(argv)).stdout;
}

async function readWaiting(): Promise<Texts> {
  const argvs = waiting;
  waiting = [];
  reading = undefined;
  const texts = argvs.length === 1 ? undefined : await runTogether(argvs);
  return new Map(texts?.map((text, index) => [argvs[index] ?? [], text]));
}
