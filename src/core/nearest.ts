import { closest, distance } from "fastest-levenshtein";

/** The known word that was probably meant; undefined when none is near. */
export function nearest(text: string, known: readonly string[]): string | undefined {
  if (known.length === 0) return undefined;
  const found = closest(text.toLowerCase(), known);
  // Half of the word may be wrong: `port` for `ports` and `logs` for `log_level` are typos, `xyzzy` is none.
  return distance(text.toLowerCase(), found) <= Math.max(2, found.length / 2) ? found : undefined;
}
