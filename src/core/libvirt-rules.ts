import type { Problem } from "./status.ts";
import type { Actual } from "./ruleset.ts";
import { optionOf, targetOf } from "./ruleset.ts";

/**
 * libvirt puts back the jumps to its chains only when it starts: somebody who flushed FORWARD has opened the guests to
 * whoever routes to them, until then. That is not ours to mend, but it must not go unseen.
 */
export function findMissingJump(actual: Actual | undefined): readonly Problem[] {
  const rejects =
    actual?.tables.filter.get("LIBVIRT_FWI")?.filter((rule) => targetOf(rule) === "REJECT") ?? [];
  const forward = actual?.tables.filter.get("FORWARD") ?? [];
  if (rejects.length === 0 || forward.some((rule) => targetOf(rule) === "LIBVIRT_FWI")) return [];
  const bridges = rejects.flatMap((rule) => optionOf(rule, "-o") ?? []);
  const message =
    `libvirt's jump to LIBVIRT_FWI is missing from FORWARD, somebody flushed it: guests on ${bridges.join(", ")} are ` +
    "open to whoever routes to them; `systemctl restart libvirtd` puts it back";
  return [{ code: "libvirt-jump", message, severity: "warning" }];
}
