import { parsePorts, formatHostPort } from "../net/address.ts";
import { claimKey, portKey } from "./dnat-rule.ts";
import type { PortClaim } from "./dnat-rule.ts";
import type { Boot, JournalEntry } from "./parse-journal.ts";
import { groupPasses } from "./rule-changes.ts";
import type { Reason, RuleChange } from "./rule-changes.ts";
import type { DaemonStatus } from "../status/status.ts";

/*
 * Who had which port when, read from the log:
 *
 *   + rule        a holding begins; where it was there already, somebody had taken the rule away: it goes on
 *   - rule        it ends; where no + was before, it had begun before the journal does
 *   - and +       of the same rule in one pass: moved within its chain, it goes on
 *   another boot  the kernel forgets all rules with the host, and nothing is logged: it ended with the host
 *   nothing       is logged for what stays: what `status` says to be active now, and no entry began, was always there
 */

/** That a published port led to a guest, from then to then. */
export interface Holding extends Omit<PortClaim, "source" | "rule"> {
  /** Sources that were let in at some time of it; empty: everyone. */
  readonly allow: readonly string[];
  /** Epoch ms; undefined: before the journal begins. */
  readonly fromMs?: number;
  /** Epoch ms; undefined: it is so now, as far as the log tells. */
  readonly toMs?: number;
  readonly began?: Reason;
  readonly ended?: Reason;
}

/** What else was said of a guest. */
export interface GuestEvent {
  readonly atMs: number;
  readonly guest: string;
  /** KVMNATD_EVENT; null where the log has no fields. */
  readonly event: string | null;
  readonly message: string;
}

export interface History {
  /** kvmnatd's first entry; undefined: there is none. */
  readonly beginsMs?: number;
  readonly holdings: readonly Holding[];
  readonly events: readonly GuestEvent[];
}

/** A holding while it is put together. */
interface Track {
  readonly claim: PortClaim;
  boot: string;
  readonly rules: Set<string>;
  readonly allow: Set<string>;
  fromMs?: number;
  toMs?: number;
  began?: Reason;
  ended?: Reason;
}

/** The holdings of each {@link claimKey} a claim, the oldest first. */
type Tracks = Map<string, Track[]>;
/** Who had a port last, see {@link portKey}. */
type Holders = Map<string, Track>;

/**
 * @param entries kvmnatd's, the oldest first
 * @param boots the oldest first; the last one is taken to be now
 * @param status of the daemon that runs; undefined: none runs
 */
export function readHistory(
  entries: readonly JournalEntry[],
  boots: readonly Boot[],
  status: DaemonStatus | undefined,
): History {
  const tracks: Tracks = new Map();
  const incumbents: Holders = new Map();
  let boot: string | undefined;
  for (const steps of groupPasses(entries)) {
    const own = steps[0]?.entry.boot ?? "";
    if (own !== boot) endOtherBoots(tracks, own, boots);
    boot = own;
    applyPass(tracks, incumbents, steps);
  }
  const current = boots.at(-1)?.id;
  if (current !== undefined) endOtherBoots(tracks, current, boots);
  if (status !== undefined) addCurrent(tracks, status);
  const beginsMs = entries[0]?.atMs;
  return {
    ...(beginsMs === undefined ? {} : { beginsMs }),
    holdings: [...tracks.values()].flat().map(toHolding),
    events: entries.flatMap(toEvent),
  };
}

function applyPass(tracks: Tracks, incumbents: Holders, steps: readonly RuleChange[]): void {
  const added = steps.filter(({ action }) => action === "add");
  const rules = new Set(added.map(({ claim }) => `${claim.family} ${claim.rule}`));
  for (const step of added) begin(tracks, incumbents, step);
  for (const step of steps)
    if (step.action === "remove" && !rules.has(`${step.claim.family} ${step.claim.rule}`)) end(tracks, step);
}

function begin(tracks: Tracks, incumbents: Holders, { claim, entry, reason }: RuleChange): void {
  const last = tracksOf(tracks, claim).at(-1);
  const track = last?.toMs === undefined ? last : undefined;
  const own = track ?? newTrack(claim, entry.boot, { fromMs: entry.atMs, began: reason });
  if (track === undefined) tracksOf(tracks, claim).push(own);
  const before = incumbents.get(portKey(claim));
  // Somebody else had removed its rule, so that no entry tells of its end.
  if (before !== undefined && before !== own && before.toMs === undefined) {
    before.toMs = entry.atMs;
    before.ended = { why: "another has its port, and its rule was gone", trigger: null };
  }
  incumbents.set(portKey(claim), own);
  own.rules.add(claim.rule);
  if (claim.source !== undefined) own.allow.add(claim.source);
}

function end(tracks: Tracks, { claim, entry, reason }: RuleChange): void {
  const own = tracksOf(tracks, claim);
  let last = own.at(-1);
  if (last === undefined || last.boot !== entry.boot) {
    last = newTrack(claim, entry.boot, {});
    own.push(last);
  }
  if (claim.source !== undefined) last.allow.add(claim.source);
  last.rules.delete(claim.rule);
  // Others of its rules are there still. (One that seemed to have ended had not, if there was a rule to remove.)
  if (last.rules.size > 0) return;
  last.toMs = entry.atMs;
  last.ended = reason;
}

function tracksOf(tracks: Tracks, claim: PortClaim): Track[] {
  const own = tracks.get(claimKey(claim)) ?? [];
  tracks.set(claimKey(claim), own);
  return own;
}

function newTrack(claim: PortClaim, boot: string, begun: Pick<Track, "fromMs" | "began">): Track {
  return { claim, boot, rules: new Set(), allow: new Set(), ...begun };
}

function endOtherBoots(tracks: Tracks, boot: string, boots: readonly Boot[]): void {
  for (const track of [...tracks.values()].flatMap((own) => own.at(-1) ?? [])) {
    if (track.boot === boot || track.toMs !== undefined) continue;
    // The journal may have lost the entry by which it would be known.
    const endMs = boots.find(({ id }) => id === track.boot)?.lastMs ?? track.fromMs ?? 0;
    track.toMs = Math.max(endMs, track.fromMs ?? 0);
    track.ended = { why: "the host went down", trigger: null };
  }
}

/** What is active now, whatever the log says: it began before the journal does, or a second copy of its rule ended. */
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
        source: undefined,
        rule: "",
      };
      const own = tracksOf(tracks, claim);
      const known = own.at(-1);
      if (known === undefined) own.push(newTrack(claim, "", {}));
      else if (known.toMs !== undefined && known.toMs < Date.parse(updatedAt)) {
        delete known.toMs;
        delete known.ended;
      }
    }
  }
}

function toHolding({ claim, allow, fromMs, toMs, began, ended }: Track): Holding {
  const { source: _, rule: _rule, ...held } = claim;
  return {
    ...held,
    allow: [...allow],
    ...(fromMs === undefined ? {} : { fromMs }),
    ...(toMs === undefined ? {} : { toMs }),
    ...(began === undefined ? {} : { began }),
    ...(ended === undefined ? {} : { ended }),
  };
}

/** How kvmnatd begins what it says of a guest, for entries without fields. */
const OF_GUEST = /^(.+?): (?:no longer published|pending|forwarded to |rules brought up to date|\S+ -> \S+)/;

function toEvent({ atMs, event, guest, message }: JournalEntry): readonly GuestEvent[] {
  const whose = event === undefined ? OF_GUEST.exec(message)?.[1] : event === "rule" ? undefined : guest;
  return whose === undefined ? [] : [{ atMs, guest: whose, event: event ?? null, message }];
}
