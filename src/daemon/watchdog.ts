import type { Host } from "../host-interface.ts";

/**
 * The same host, of which each call that ends is a sign of life: a pass that waits for one slow program after the
 * other gets on, one that waits for ever does not.
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
