/*
 * Why a guest has no address, or what an admin should know of the address that it has. The kind is for the log: a
 * conflict is a warning, and a network that is down has a line of its own, not one for each guest.
 */
type ReasonKind = "conflict" | "network-down" | "other";

export interface Reason {
  readonly kind: ReasonKind;
  /** For people. */
  readonly text: string;
}

export function createReason(text: string): Reason {
  return { kind: "other", text };
}

/** @param text what the guests claim, and what becomes of it */
export function createConflict(text: string): Reason {
  return { kind: "conflict", text: `conflict: ${text}` };
}

export function createNetworkDown(text: string): Reason {
  return { kind: "network-down", text };
}
