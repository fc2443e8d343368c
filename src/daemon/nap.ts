/** A sleep that can be interrupted. */
export interface Nap {
  /** @param ms at most; Infinity: until it is woken. @returns how it ended */
  sleep(ms: number): Promise<"over" | "woken">;
  /** Ends the sleep, if there is one. */
  wake(): void;
}

export function createInterruptibleSleep(): Nap {
  let wake: () => void = () => undefined;
  return {
    sleep: async (ms) => {
      const how = await new Promise<"over" | "woken">((resolve) => {
        const timer = ms === Number.POSITIVE_INFINITY ? undefined : setTimeout(resolve, ms, "over");
        wake = () => {
          clearTimeout(timer);
          resolve("woken");
        };
      });
      wake = () => undefined;
      return how;
    },
    wake: () => wake(),
  };
}
