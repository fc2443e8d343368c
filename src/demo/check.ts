import { KvmnatdError } from "../errors.ts";

/** Something that must become true within the deadline. */
export interface Check {
  /** For the message of a failure. */
  readonly expected: string;
  readonly read: () => Promise<string>;
  readonly isMet: (found: string) => boolean;
  /** Text for the spectator; empty when there is nothing to show. */
  readonly describe: (found: string) => string;
}

/** Timeout for one check: a pass takes milliseconds, a DHCP client up to a few seconds. */
const DEADLINE_MS = 6000;
/** Interval between readings. */
const POLL_MS = 25;

/**
 * Reads until the check is met.
 * @returns what was read last
 * @throws KvmnatdError with what was expected and what was found, after the deadline
 */
export async function waitUntilMet({ expected, read, isMet }: Check): Promise<string> {
  const endsAt = performance.now() + DEADLINE_MS;
  for (;;) {
    const found = await read();
    if (isMet(found)) return found;
    if (performance.now() > endsAt) {
      const message = `the demo failed: expected ${expected} within ${DEADLINE_MS / 1000} s, but found: ${found}`;
      throw new KvmnatdError("demo", message);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
