import { formatCidr, formatHostPort, formatPorts, parsePorts } from "../net/address.ts";
import type { Family, PortRange } from "../net/address.ts";
import type { Boot, JournalEntry } from "./parse-journal.ts";
import { groupPasses } from "./rule-changes.ts";
import type { HoldingReason, RuleChange } from "./rule-changes.ts";
import { encodeOwnerName } from "../rules/ownership.ts";
import type { DaemonStatus } from "../status/status.ts";

/*
 * Which guest had which port when, read from the log:
 *
 *   + rule        a holding begins; if it exists already, another program had removed the rule: it continues
 *   - rule        the holding ends; without a + before, it began before the journal does
 *   - and +       of the same rule in one pass: the rule moved within its chain, the holding continues
 *   another boot  the kernel loses all rules with the host, and nothing is logged: the holding ended with the host
 *   nothing       is logged for what stays: what status.json lists as active, and no entry began, was always there
 */

/** A published port of a guest, at one address of the host and with one target. */
interface PortClaim {
  readonly guest: string;
  readonly family: Family;
  readonly protocol: string;
  readonly published: PortRange;
  /** The host's address; null: any. */
  readonly listen: string | null;
  /** `192.168.122.11:22`, `[fd00::1]:22`, a range `192.168.122.11:8000-8010`. */
  readonly target: string;
}

/** The time during which a published port was forwarded to a guest. */
export interface Holding extends PortClaim {
  /** Sources that were allowed at some time of it; empty: all. */
  readonly allow: readonly string[];
  /** Epoch ms; undefined: before the journal begins. */
  readonly fromMs: number | undefined;
  /** Epoch ms; undefined: it lasts. */
  readonly toMs: number | undefined;
  readonly began: HoldingReason | undefined;
  readonly ended: HoldingReason | undefined;
}

/** Any other message about a guest. */
export interface GuestEvent {
  readonly atMs: number;
  readonly guest: string;
  /** KVMNATD_EVENT; null when the entry has no fields. */
  readonly event: string | null;
  readonly message: string;
}

export interface History {
  /** Time of kvmnatd's first entry; undefined: there is none. */
  readonly beginsMs: number | undefined;
  readonly holdings: readonly Holding[];
  readonly events: readonly GuestEvent[];
}

/** A holding while it is put together. */
interface Track {
  readonly claim: PortClaim;
  boot: string;
  readonly rules: Set<string>;
  readonly allow: Set<string>;
  fromMs: number | undefined;
  toMs: number | undefined;
  began: HoldingReason | undefined;
  ended: HoldingReason | undefined;
}

interface Tracks {
  /** The holdings of each {@link claimKey}, the oldest first. */
  readonly byClaim: Map<string, Track[]>;
  /** The last holding of each {@link portKey}. */
  readonly lastByPort: Map<string, Track>;
}

/**
 * @param entries kvmnatd's, the oldest first
 * @param boots the oldest first; the last one is the current one
 * @param status of the running daemon; undefined: none runs
 */
export function readHistory(
  entries: readonly JournalEntry[],
  boots: readonly Boot[],
  status: DaemonStatus | undefined,
): History {
  const tracks: Tracks = { byClaim: new Map(), lastByPort: new Map() };
  let boot: string | undefined;
  for (const changes of groupPasses(entries)) {
    const own = changes[0]?.entry.boot ?? "";
    if (own !== boot) endOtherBoots(tracks, own, boots);
    boot = own;
    applyPass(tracks, changes);
  }
  const current = boots.at(-1)?.id;
  if (current !== undefined) endOtherBoots(tracks, current, boots);
  if (status !== undefined) addCurrent(tracks, status);
  return {
    beginsMs: entries[0]?.atMs,
    holdings: [...tracks.byClaim.values()].flat().map(toHolding),
    events: entries.flatMap(toEvent),
  };
}

function applyPass(tracks: Tracks, changes: readonly RuleChange[]): void {
  const added = changes.filter(({ action }) => action === "add");
  const keys = new Set(added.map(({ key }) => key));
  for (const change of added) begin(tracks, change);
  for (const change of changes) if (change.action === "remove" && !keys.has(change.key)) end(tracks, change);
}

function begin(tracks: Tracks, change: RuleChange): void {
  const { entry, reason } = change;
  const claim = toClaim(change);
  const tracksOfClaim = tracksOf(tracks, claim);
  const last = tracksOfClaim.at(-1);
  const running = last?.toMs === undefined ? last : undefined;
  const track = running ?? newTrack(claim, entry.boot);
  if (running === undefined) {
    track.fromMs = entry.atMs;
    track.began = reason;
    tracksOfClaim.push(track);
  }
  const before = tracks.lastByPort.get(portKey(claim));
  // Another program had removed its rule, so no entry marks its end.
  if (before !== undefined && before !== track && before.toMs === undefined) {
    before.toMs = entry.atMs;
    before.ended = { why: "another has its port, and its rule was gone", trigger: null };
  }
  tracks.lastByPort.set(portKey(claim), track);
  track.rules.add(change.key);
  addSource(track, change);
}

function end(tracks: Tracks, change: RuleChange): void {
  const { entry, reason } = change;
  const claim = toClaim(change);
  const tracksOfClaim = tracksOf(tracks, claim);
  let last = tracksOfClaim.at(-1);
  if (last === undefined || last.boot !== entry.boot) {
    last = newTrack(claim, entry.boot);
    tracksOfClaim.push(last);
  }
  addSource(last, change);
  last.rules.delete(change.key);
  // Other rules of the holding remain. (If it seemed to have ended, it had not, because there was a rule to remove.)
  if (last.rules.size > 0) return;
  last.toMs = entry.atMs;
  last.ended = reason;
}

function addSource({ allow }: Track, { rule: { source } }: RuleChange): void {
  if (source !== undefined) allow.add(formatCidr(source));
}

function toClaim({ guest, rule }: RuleChange): PortClaim {
  const { family, protocol, published, hostAddress, destination, targetPorts } = rule;
  const target = formatHostPort(destination, formatPorts(targetPorts));
  return { guest, family, protocol, published, listen: hostAddress ?? null, target };
}

/** Equal for all claims to one port. */
function portKey({ family, protocol, published, listen }: PortClaim): string {
  return [family, protocol, formatPorts(published), listen ?? "*"].join(" ");
}

/** Equal for all claims of one guest to one port, with one target. */
function claimKey(claim: PortClaim): string {
  return [portKey(claim), claim.target, encodeOwnerName(claim.guest)].join(" ");
}

function tracksOf({ byClaim }: Tracks, claim: PortClaim): Track[] {
  const own = byClaim.get(claimKey(claim)) ?? [];
  byClaim.set(claimKey(claim), own);
  return own;
}

function newTrack(claim: PortClaim, boot: string): Track {
  const open = { fromMs: undefined, toMs: undefined, began: undefined, ended: undefined };
  return { claim, boot, rules: new Set(), allow: new Set(), ...open };
}

function endOtherBoots({ byClaim }: Tracks, boot: string, boots: readonly Boot[]): void {
  for (const track of [...byClaim.values()].flatMap((own) => own.at(-1) ?? [])) {
    if (track.boot === boot || track.toMs !== undefined) continue;
    // The journal may have lost every entry of that boot's end.
    const endMs = boots.find(({ id }) => id === track.boot)?.lastMs ?? track.fromMs ?? 0;
    track.toMs = Math.max(endMs, track.fromMs ?? 0);
    track.ended = { why: "the host went down", trigger: null };
  }
}

/**
 * Adds what is active now, whatever the log contains: it began before the journal does, or only a second copy of its
 * rule ended.
 */
function addCurrent(tracks: Tracks, { forwards, updatedAt }: DaemonStatus): void {
  for (const { state, guest, family, protocol, published, listen, address, target } of forwards) {
    if (state !== "active" || address === null) continue;
    for (const host of listen.length === 0 ? [null] : listen) {
      const claim: PortClaim = {
        guest,
        family,
        protocol,
        published: parsePorts(published),
        listen: host,
        target: formatHostPort(address, target),
      };
      const own = tracksOf(tracks, claim);
      const known = own.at(-1);
      if (known === undefined) own.push(newTrack(claim, ""));
      else if (known.toMs !== undefined && known.toMs < Date.parse(updatedAt)) {
        known.toMs = undefined;
        known.ended = undefined;
      }
    }
  }
}

function toHolding({ claim, allow, fromMs, toMs, began, ended }: Track): Holding {
  return { ...claim, allow: [...allow], fromMs, toMs, began, ended };
}

/** The beginnings of kvmnatd's messages about a guest, for entries without fields. */
const GUEST_MESSAGE =
  /^(.+?): (?:no longer published|pending|forwarded to |rules brought up to date|\S+ -> \S+)/;

function toEvent({ atMs, event, guest, message }: JournalEntry): readonly GuestEvent[] {
  const subject =
    event === undefined ? GUEST_MESSAGE.exec(message)?.[1] : event === "rule" ? undefined : guest;
  return subject === undefined ? [] : [{ atMs, guest: subject, event: event ?? null, message }];
}
