/** A habit of the language that makes a sentence hard to read, and the pattern that finds it. */
interface StyleRule {
  readonly name: string;
  readonly pattern: RegExp;
  readonly instead: string;
}

/**
 * The part of the style that a machine can check (CONTRIBUTING.md, "English"). Each pattern is made to miss a bad
 * sentence rather than to reject a good one.
 */
const STYLE_RULES: readonly StyleRule[] = [
  {
    name: "indefinite actor",
    pattern: /\b(?:nobody|somebody|whoever|whatever (?:is|are|was))\b/i,
    instead: "name the actor: kvmnatd, the kernel, libvirt, a guest, a client, another program",
  },
  { name: "anew", pattern: /\banew\b/i, instead: "again" },
  { name: "astray", pattern: /\bastray\b/i, instead: "stale, or to the wrong target" },
  {
    name: "negated noun",
    // "there is no", "is no longer" and "is no more than" are plain English.
    pattern: /(?<!\bthere )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|later\b|earlier\b)[a-z]/i,
    instead: '"x" is not a ...',
  },
  {
    name: "fronted object",
    pattern: /\b(?:Of (?!course\b)[a-z]|So (?:many|much|long|often|few)\b|That which\b|Whose\b)/,
    instead: "subject, verb, object",
  },
  {
    name: "who as a subject",
    pattern: /(?<![A-Za-z"] )\bWho\b(?![^.\n]*\?)/,
    instead: "name the actor",
  },
  {
    name: "told, said",
    pattern: /\b(?:is|are|was|were|be|been|being) (?:told|said)\b/i,
    instead: "log, report, notify",
  },
  {
    name: "looked for, looked at",
    pattern: /\b(?:is|are|was|were|be|been) looked (?:for|at|into)\b/i,
    instead: "read, check, search",
  },
  {
    name: "has not the",
    pattern: /\b(?:has|have|had) (?:not|no) (?:the|a|an) [a-z]/i,
    instead: "does not have the ...",
  },
  { name: "but for", pattern: /\b[Bb]ut for\b/, instead: "except for" },
];

/** One place that breaks a rule of the style. */
export interface StyleHit {
  /** 1-based. */
  readonly line: number;
  readonly rule: string;
  readonly text: string;
}

/** Finds every sentence of a text that a rule rejects. A sentence may go on over a line break and a comment's marker. */
export function findStyleHits(text: string): readonly StyleHit[] {
  return text.split("\n").flatMap((line, at, lines) => {
    const next = lines[at + 1] ?? "";
    const own = stripMarker(line);
    const joined = `${own} ${stripMarker(next)}`;
    return STYLE_RULES.flatMap(({ name, pattern, instead }) => {
      const found = pattern.exec(joined);
      // A hit that begins on the next line belongs to that line.
      return found === null || found.index >= own.length
        ? []
        : [{ line: at + 1, rule: `${name} (write: ${instead})`, text: found[0] }];
    });
  });
}

/** Removes what begins a line of a comment, so that a sentence over two lines is whole. */
function stripMarker(line: string): string {
  return line.replace(/^\s*(?:\/\/|\/?\*+|#)?\s*/, "").trimEnd();
}

/** The titles of the tests of a file, each with the number of its line. */
export function findTitles(source: string): readonly { readonly line: number; readonly title: string }[] {
  const calls = source.matchAll(TITLE);
  return Array.from(calls, (call) => ({
    line: source.slice(0, call.index).split("\n").length,
    title: call[2] ?? "",
  }));
}

/** A call of it, test or describe, with modifiers and a table before the title. */
const TITLE =
  /\b(?:it|test|describe)(?:\.\w+)*(?:\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))?\(\s*(["`])((?:\\.|(?!\1)[^\\])*)\1/g;
