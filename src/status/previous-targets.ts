import { parseIp, parsePorts } from "../net/address.ts";
import type { ForwardStatus } from "./status.ts";
import type { PortTarget } from "../forwards/resolved-forward.ts";

/** Where the daemon before this one led the published ports. @param forwards of its last status */
export function readPortTargets(forwards: readonly ForwardStatus[]): readonly PortTarget[] {
  return forwards.flatMap(({ family, protocol, published, address: text }) => {
    const address = text === null ? undefined : parseIp(text);
    return address === undefined ? [] : [{ family, protocol, range: parsePorts(published), address }];
  });
}
