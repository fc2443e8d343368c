import { formatPorts, parseIp } from "./address.ts";
import type { Family, PortRange } from "./address.ts";
import { ownerName, parseOwner } from "./owner.ts";
import type { Boot, JournalEntry } from "./parse-journal.ts";
import { printable } from "./printable.ts";
import { commentOf, optionOf, ruleKey, targetOf } from "./ruleset.ts";
import type { DaemonStatus } from "./status.ts";

/*
 * Who had which port when, read from the log:
 *
 *   + rule        a holding begins; where it was there already, somebody had taken the rule away: it goes on
 *   - rule        it ends; where no + was before, it had begun before the journal does
 *   - and +       of the same rule in one pass: moved within its chain, it goes on
 *   another boot  the kernel forgets all rules with the host, and nothing is logged: it ended with the host
 *   nothing       is logged for what stays: what `status` says to be active now, and no entry began, was always there
 */

/** Why something began or ended, in the log's words. */
interface Reason {
  readonly why: string;
  /** What made kvmnatd look; null where the log has no fields. */
  readonly trigger: string | null;
}

/** That a published port led to a guest, from then to then. */
export interface Holding {
  readonly guest: string;
  readonly family: Family;
  readonly protocol: string;
  readonly published: PortRange;
  /** The host's address; null: any. */
  readonly listen: string | null;
  /** `192.168.122.11:22`, `[fd00::1]:22`, a range `192.168.122.11:8000-8010`. */
  readonly target: string;
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

/** What one rule of a forward says. */
type Claim = Pick<Holding, "guest" | "family" | "protocol" | "published" | "listen" | "target"> & {
  readonly source: string | undefined;
  /** The same for all texts of the same rule. */
  readonly rule: string;
};

interface Step {
  readonly entry: JournalEntry;
  readonly claim: Claim;
  readonly action: "add" | "remove";
  readonly reason: Reason;
}

/** A holding while it is put together. */
interface Track {
  readonly claim: Claim;
  boot: string;
  readonly rules: Set<string>;
  readonly allow: Set<string>;
  fromMs?: number;
  toMs?: number;
  began?: Reason;
  ended?: Reason;
}

/** The holdings of each {@link keyOf} a claim, the oldest first. */
type Tracks = Map<string, Track[]>;
/** Who had a port last, see {@link portOf}. */
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
  const holders: Holders = new Map();
  let boot: string | undefined;
  for (const steps of groupPasses(entries)) {
    const own = steps[0]?.entry.boot ?? "";
    if (own !== boot) endOtherBoots(tracks, own, boots);
    boot = own;
    applyPass(tracks, holders, steps);
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

const RULE = /^([+-]) (ip6?tables) -t nat -[AID] KVMNATD-DNAT\S* (?:\d+ )?(-.*)$/;

/** Steps of one pass together. Without fields, the rules of one guest are: each has a line of its own before them. */
function groupPasses(entries: readonly JournalEntry[]): readonly (readonly Step[])[] {
  const groups: Step[][] = [];
  let before: JournalEntry | undefined;
  let headlines: JournalEntry[] = [];
  for (const entry of entries) {
    const isRule = entry.event === undefined ? /^[+-] \S/.test(entry.message) : entry.event === "rule";
    if (before === undefined || !isSamePass(before, entry, isRule)) {
      groups.push([]);
      headlines = [];
    }
    before = entry;
    const step = isRule ? toStep(entry, headlines) : undefined;
    if (step !== undefined) groups.at(-1)?.push(step);
    if (!isRule) headlines.push(entry);
  }
  return groups.filter((group) => group.length > 0);
}

/** Lines of one pass are written within a moment, whatever the host is busy with. */
const MOMENT_MS = 1000;

function isSamePass(before: JournalEntry, entry: JournalEntry, isRule: boolean): boolean {
  if (before.boot !== entry.boot || before.pid !== entry.pid || before.pass !== entry.pass) return false;
  return entry.pass !== undefined || (isRule && entry.atMs - before.atMs < MOMENT_MS);
}

function toStep(entry: JournalEntry, headlines: readonly JournalEntry[]): Step | undefined {
  const [, sign, program, rule = ""] = RULE.exec(entry.message) ?? [];
  const claim = sign === undefined ? undefined : readClaim(rule, program === "iptables" ? 4 : 6, entry.guest);
  if (claim === undefined) return undefined;
  const headline =
    headlines.findLast(({ guest }) => guest !== undefined && guest === entry.guest) ?? headlines.at(-1);
  return {
    entry,
    claim,
    action: sign === "+" ? "add" : "remove",
    reason: toReason(headline, claim.guest),
  };
}

/** Without the guest's name before and the trigger after it: both are told beside it. */
function toReason(headline: JournalEntry | undefined, guest: string): Reason {
  if (headline === undefined) return { why: "the log does not say", trigger: null };
  const prefix = `${printable(guest)}: `;
  const text = headline.message.startsWith(prefix) ? headline.message.slice(prefix.length) : headline.message;
  const trigger = headline.reason ?? / \(([^()]*)\)$/.exec(text)?.[1] ?? null;
  const tail = ` (${trigger})`;
  return { why: text.endsWith(tail) ? text.slice(0, -tail.length) : text, trigger };
}

/** @param guest its name as the entry has it; else the rule's comment has it, or, of a long one, the beginning */
function readClaim(rule: string, family: Family, guest: string | undefined): Claim | undefined {
  const owner = parseOwner(commentOf(rule) ?? "");
  const published = readRange(optionOf(rule, "--dport") ?? "");
  if (owner === undefined || published === undefined || targetOf(rule) !== "DNAT") return undefined;
  return {
    guest: guest ?? decodeName(owner.name),
    family,
    protocol: optionOf(rule, "-p") ?? "",
    published,
    listen: withoutMask(optionOf(rule, "-d")) ?? null,
    target: formatTarget(optionOf(rule, "--to-destination") ?? "", published),
    source: optionOf(rule, "-s"),
    rule: ruleKey(rule),
  };
}

function readRange(text: string): PortRange | undefined {
  const [, first, last = first] = /^(\d+)(?::(\d+))?$/.exec(text) ?? [];
  return first === undefined ? undefined : { first: Number(first), last: Number(last) };
}

function decodeName(name: string): string {
  const bytes = name.match(/%[0-9a-f]{2}|[^%]/g) ?? [];
  return new TextDecoder().decode(
    Uint8Array.from(bytes, (each) =>
      each.length === 3 ? Number.parseInt(each.slice(1), 16) : each.charCodeAt(0),
    ),
  );
}

function withoutMask(address: string | undefined): string | undefined {
  return address?.replace(/\/(?:32|128)$/, "");
}

/** `ADDRESS` alone keeps the port; `/BASE` of a shifted range says again what is published. */
function formatTarget(destination: string, published: PortRange): string {
  const ip = parseIp(destination);
  if (ip === undefined) return destination.replace(/\/\d+$/, "");
  return joinPort(ip, formatPorts(published));
}

function joinPort(address: string, ports: string): string {
  return address.includes(":") ? `[${address}]:${ports}` : `${address}:${ports}`;
}

function keyOf({
  guest,
  family,
  protocol,
  published,
  listen,
  target,
}: Omit<Claim, "source" | "rule">): string {
  return [portOf({ family, protocol, published, listen, target, guest }), target, ownerName(guest)].join(" ");
}

function applyPass(tracks: Tracks, holders: Holders, steps: readonly Step[]): void {
  const added = steps.filter(({ action }) => action === "add");
  const rules = new Set(added.map(({ claim }) => `${claim.family} ${claim.rule}`));
  for (const step of added) begin(tracks, holders, step);
  for (const step of steps)
    if (step.action === "remove" && !rules.has(`${step.claim.family} ${step.claim.rule}`)) end(tracks, step);
}

function begin(tracks: Tracks, holders: Holders, { claim, entry, reason }: Step): void {
  const last = tracksOf(tracks, claim).at(-1);
  const track = last?.toMs === undefined ? last : undefined;
  const own = track ?? newTrack(claim, entry.boot, { fromMs: entry.atMs, began: reason });
  if (track === undefined) tracksOf(tracks, claim).push(own);
  const before = holders.get(portOf(claim));
  // Somebody else had removed its rule, so that no entry tells of its end.
  if (before !== undefined && before !== own && before.toMs === undefined) {
    before.toMs = entry.atMs;
    before.ended = { why: "another has its port, and its rule was gone", trigger: null };
  }
  holders.set(portOf(claim), own);
  own.rules.add(claim.rule);
  if (claim.source !== undefined) own.allow.add(claim.source);
}

function portOf({ family, protocol, published, listen }: Omit<Claim, "source" | "rule">): string {
  return [family, protocol, formatPorts(published), listen ?? "*"].join(" ");
}

function end(tracks: Tracks, { claim, entry, reason }: Step): void {
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

function tracksOf(tracks: Tracks, claim: Claim): Track[] {
  const own = tracks.get(keyOf(claim)) ?? [];
  tracks.set(keyOf(claim), own);
  return own;
}

function newTrack(claim: Claim, boot: string, begun: Pick<Track, "fromMs" | "began">): Track {
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
    const [first = 0, last = first] = published.split("-").map(Number);
    if (state !== "active" || address === null) continue;
    for (const host of listen.length === 0 ? [null] : listen) {
      const range = { first, last };
      const claim: Claim = {
        guest,
        family,
        protocol,
        published: range,
        listen: host,
        target: joinPort(address, target),
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

/** What of a history is asked for; times in epoch ms. */
export interface Selection {
  readonly guest?: string;
  readonly port?: number;
  readonly protocol?: string;
  /** Holdings that lasted until after this, and events from then on. */
  readonly sinceMs?: number;
  readonly untilMs?: number;
}

/** Sorted: holdings by port, then as they followed each other; events as they came. */
export function selectHistory(history: History, selection: Selection): History {
  const { guest, port, protocol } = selection;
  const { sinceMs = Number.NEGATIVE_INFINITY, untilMs = Number.POSITIVE_INFINITY } = selection;
  // What began before the journal is certain from there on.
  const beginsMs = history.beginsMs ?? Number.NEGATIVE_INFINITY;
  const holdings = history.holdings.filter(
    (each) =>
      (guest === undefined || each.guest === guest) &&
      (port === undefined || (each.published.first <= port && port <= each.published.last)) &&
      (protocol === undefined || each.protocol === protocol) &&
      (each.fromMs ?? beginsMs) <= untilMs &&
      (each.toMs ?? Number.POSITIVE_INFINITY) > sinceMs,
  );
  const guests = new Set(holdings.map((each) => each.guest));
  return {
    ...history,
    holdings: holdings.toSorted(inOrder),
    events: history.events.filter(
      (event) =>
        event.atMs >= sinceMs &&
        event.atMs <= untilMs &&
        (guest === undefined ? port === undefined || guests.has(event.guest) : event.guest === guest),
    ),
  };
}

function inOrder(one: Holding, other: Holding): number {
  return (
    one.published.first - other.published.first ||
    one.protocol.localeCompare(other.protocol) ||
    one.family - other.family ||
    (one.listen ?? "").localeCompare(other.listen ?? "") ||
    (one.fromMs ?? 0) - (other.fromMs ?? 0) ||
    (one.toMs ?? Number.POSITIVE_INFINITY) - (other.toMs ?? Number.POSITIVE_INFINITY)
  );
}
