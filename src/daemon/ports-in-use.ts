import { describePortInUse, findPortsInUse } from "../status/ports-in-use.ts";
import { KvmnatdError } from "../errors.ts";
import type { Host } from "../host-interface.ts";
import type { View } from "./observe.ts";
import type { Diagnostic } from "../diagnostic.ts";
import { createWarning } from "../diagnostic.ts";

/** Finds published ports on which the host itself listens. If they cannot be read, the result says so. */
export async function checkPortsInUse(host: Host, { snapshot, links }: View): Promise<readonly Diagnostic[]> {
  try {
    const { guests, reach } = snapshot.portMap;
    const forwards = guests.flatMap((guest) => guest.forwards);
    const rows = findPortsInUse(forwards, await host.readListeners(), links.addresses, reach.loopback);
    return rows.map((row) => createWarning("port-in-use", describePortInUse(row)));
  } catch (error) {
    if (!(error instanceof KvmnatdError)) throw error;
    return [error.toDiagnostic("warning")];
  }
}
