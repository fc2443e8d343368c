import type { Host } from "../host-interface.ts";

/**
 * Wraps a host so that the end of each call reports progress. Calls, not stages of a pass, are the unit: one stage may
 * run many slow commands and rightly take longer than the watchdog's time, while a command that never ends is a hang.
 */
export function withProgress(host: Host, onProgress: () => void): Host {
  return new Proxy(host, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name);
      if (typeof member !== "function") return member;
      return (...given: readonly unknown[]): unknown => {
        const outcome: unknown = Reflect.apply(member, target, given);
        if (outcome instanceof Promise) outcome.then(onProgress, onProgress);
        return outcome;
      };
    },
  });
}
