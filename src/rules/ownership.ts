import { parseMac } from "../net/address.ts";
import type { Mac } from "../net/address.ts";
import type { Guest } from "../config/port-map.ts";
import { identityText } from "../config/port-map.ts";
import { encodeForComment } from "../sanitize.ts";

/** Every rule we own carries a comment that starts so. */
export const MARK = "kvmnatd:";

/** Every chain we own starts so; 28 characters are the kernel's limit for a chain's name. */
export const CHAIN_PREFIX = "KVMNATD-";

/** What a forward's comment says: who holds it survives a restart of the daemon in the kernel, and nowhere else. */
export interface Owner {
  /** The guest's name as {@link ownerName} writes it. */
  readonly name: string;
  readonly identity: string;
  readonly mac?: Mac;
}

/** The comment of a guest's forward: `kvmnatd:NAME[ IDENTITY][ MAC]`. At most 255 characters, the kernel's limit. */
export function ownerComment(guest: Guest, mac: Mac | undefined): string {
  const identity = identityText(guest);
  return [
    MARK + ownerName(guest.name),
    ...(identity === "" ? [] : [identity]),
    ...((mac ?? "") ? [mac] : []),
  ].join(" ");
}

/** The comment of a rule that serves no single guest; `@` cannot begin a guest's. */
export function sharedComment(what: string): string {
  return `${MARK}@${encodeForComment(what)}`;
}

/** The comments of our rules in chains of others: a rule of others may begin as ours do. */
export const JUMP_COMMENT: string = sharedComment("jump");
export const GUARD_COMMENT: string = sharedComment("loopback-guard");

export function parseOwner(comment: string): Owner | undefined {
  if (!comment.startsWith(MARK) || comment.startsWith(`${MARK}@`)) return undefined;
  const [name = "", ...rest] = comment.slice(MARK.length).split(" ");
  const mac = parseMac(rest.at(-1) ?? "");
  const identity = (mac === undefined ? rest : rest.slice(0, -1)).join(" ");
  return { name, identity, ...(mac === undefined ? {} : { mac }) };
}

/** A guest's name as comments carry it. */
export function ownerName(name: string): string {
  return encodeForComment(name);
}
