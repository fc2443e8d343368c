import { parseMac } from "../net/address.ts";
import type { Family, Mac } from "../net/address.ts";
import type { Guest } from "../config/port-map.ts";
import { identityText } from "../config/port-map.ts";
import { encodeForComment } from "../sanitize.ts";

/** Beginning of the comment of every rule that kvmnatd owns. */
export const MARK = "kvmnatd:";

/** Beginning of the name of every chain that kvmnatd owns. The kernel allows 28 characters for a chain's name. */
export const CHAIN_PREFIX = "KVMNATD-";

/** The comment of a forward's rule. The incumbent survives a restart of the daemon in this comment and nowhere else. */
export interface Owner {
  /** The guest's name as {@link encodeOwnerName} encodes it. */
  readonly name: string;
  /** How the guest was found, see `identityText`. */
  readonly identity: string;
  /** Undefined for a guest with a fixed address. */
  readonly mac: Mac | undefined;
}

/** @returns the owner of the rules that forward to this guest */
export function ownerOf(guest: Guest, mac: Mac | undefined): Owner {
  return { name: encodeOwnerName(guest.name), identity: identityText(guest), mac };
}

/**
 * @returns the comment `kvmnatd:NAME[ IDENTITY][ MAC]`, at most 255 characters, which is the kernel's limit;
 * {@link parseOwner} is its inverse
 */
export function formatOwner({ name, identity, mac }: Owner): string {
  return [MARK + name, identity, mac ?? ""].filter((part) => part !== "").join(" ");
}

/** @returns undefined for a comment that {@link formatOwner} did not write */
export function parseOwner(comment: string): Owner | undefined {
  if (!comment.startsWith(MARK) || comment.startsWith(SHARED_MARK)) return undefined;
  const [name = "", ...rest] = comment.slice(MARK.length).split(" ");
  const mac = parseMac(rest.at(-1) ?? "");
  const identity = (mac === undefined ? rest : rest.slice(0, -1)).join(" ");
  return { name, identity, mac };
}

const SHARED_MARK = `${MARK}@`;

/** The comment of a rule that serves several guests. `@` is never the first character of an encoded guest name. */
export function sharedComment(subject: string): string {
  return SHARED_MARK + encodeForComment(subject);
}

/** Comments of kvmnatd's rules in foreign chains. A foreign rule's comment may begin with the mark too. */
export const JUMP_COMMENT: string = sharedComment("jump");
export const GUARD_COMMENT: string = sharedComment("loopback-guard");

/** @returns the option of iptables that sets a comment, quoted as iptables-save prints it */
export function formatComment(comment: string): string {
  return `-m comment --comment "${comment}"`;
}

/** Key of a guest in one family, for maps. */
export function guestKey(family: Family, guest: string): string {
  return `${family} ${guest}`;
}

/** Encodes a guest's name for a comment. A long name is cut and ends in a hash. */
export function encodeOwnerName(name: string): string {
  return encodeForComment(name);
}

/** @returns the guest's name, or the beginning and the hash of a long one */
export function decodeOwnerName(name: string): string {
  const bytes = name.match(/%[0-9a-f]{2}|[^%]/g) ?? [];
  return new TextDecoder().decode(
    Uint8Array.from(bytes, (each) =>
      each.length === 3 ? Number.parseInt(each.slice(1), 16) : each.charCodeAt(0),
    ),
  );
}
