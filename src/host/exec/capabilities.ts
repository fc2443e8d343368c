import { readFileSync } from "node:fs";
import { errnoOf } from "../../errors.ts";

/** Capabilities that the programs need, with their numbers in linux/capability.h. */
const CAPABILITIES = { CAP_NET_ADMIN: 12, CAP_NET_RAW: 13 };

/** @returns the capabilities that this process and its programs lack */
export function missingCapabilities(): readonly string[] {
  const bits = /^CapEff:\s*([\da-f]+)$/m.exec(readOwnStatus())?.[1];
  if (bits === undefined) return [];
  const owned = BigInt(`0x${bits}`);
  return Object.entries(CAPABILITIES)
    .filter(([, bit]) => ((owned >> BigInt(bit)) & 1n) === 0n)
    .map(([name]) => name);
}

/** Empty when it cannot be read: it only explains another failure, perhaps that no more files can be opened. */
function readOwnStatus(): string {
  try {
    return readFileSync("/proc/self/status", "utf8");
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return "";
  }
}
