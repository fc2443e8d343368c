import { closest, distance } from "fastest-levenshtein";

/** The known word that was probably meant; undefined when none is near. */
export function findNearest(text: string, known: readonly string[]): string | undefined {
  if (known.length === 0) return undefined;
  const found = closest(text.toLowerCase(), known);
  // Half of the letters may be wrong: `port` for `ports` and `warning` for `warn` are slips, `xyzzy` is none.
  return distance(text.toLowerCase(), found) <= Math.max(text.length, found.length) / 2 ? found : undefined;
}
