import { parseIp, readPorts } from "../net/address.ts";
import type { ForwardStatus } from "./status.ts";
import type { Lead } from "../forwards/resolved-forward.ts";

/** Where a daemon led them that ended, by its last status. */
export function readLeads(forwards: readonly ForwardStatus[]): readonly Lead[] {
  return forwards.flatMap(({ family, protocol, published, address: text }) => {
    const address = text === null ? undefined : parseIp(text);
    return address === undefined ? [] : [{ family, protocol, range: readPorts(published), address }];
  });
}
