import { spawn } from "node:child_process";
import { performance } from "node:perf_hooks";
import type { Lab } from "../support/lab.ts";

/** Follows the kernel's ruleset by its own event stream. */
export interface Monitor {
  /** When (performance.now) an event first carries this text from now on. */
  seen(text: string): Promise<number>;
}

const DEADLINE_MS = 20_000;

/** Starts `nft monitor`, which ends with the lab: it costs nothing while nothing happens and prints a rule when its transaction is committed. */
export function startMonitor(lab: Lab): Monitor {
  const [file = "", ...args] = lab.enter;
  const child = spawn(file, [...args, "nft", "monitor", "rules"], { stdio: ["ignore", "pipe", "inherit"] });
  const waiting = new Set<{ readonly text: string; readonly found: (at: number) => void }>();
  // An event's line may come in two chunks.
  let tail = "";
  child.stdout.on("data", (chunk: Buffer) => {
    const at = performance.now();
    const text = tail + chunk.toString("utf8");
    tail = text.slice(text.lastIndexOf("\n") + 1);
    for (const each of waiting) {
      if (!text.includes(each.text)) continue;
      waiting.delete(each);
      each.found(at);
    }
  });
  return {
    seen: (text) =>
      new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no event with ${text}`)), DEADLINE_MS);
        const found = (at: number): void => {
          clearTimeout(timer);
          resolve(at);
        };
        waiting.add({ text, found });
      }),
  };
}
