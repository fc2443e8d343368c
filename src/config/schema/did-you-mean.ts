import { closest, distance } from "fastest-levenshtein";

/** Returns the known word that was probably meant; undefined when none is near. */
export function findNearest(text: string, known: readonly string[]): string | undefined {
  if (known.length === 0) return undefined;
  const found = closest(text.toLowerCase(), known);
  // Up to half of the letters may differ: `port` for `ports` and `warning` for `warn` are mistakes, `xyzzy` is not.
  return distance(text.toLowerCase(), found) <= Math.max(text.length, found.length) / 2 ? found : undefined;
}
