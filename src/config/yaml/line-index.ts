/** 1-based, in UTF-16 units. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/**
 * Prepares to find the line of an offset in a text. A CRLF ends a line once.
 * @returns the position of an offset; an offset beyond the end is at the end
 */
export function indexLines(text: string): (offset: number) => Position {
  const starts = [0];
  for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", end + 1)) starts.push(end + 1);
  return (wanted) => {
    const offset = Math.min(wanted, text.length);
    let [low, high] = [0, starts.length];
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((starts[middle] ?? 0) <= offset) low = middle;
      else high = middle;
    }
    return { line: low + 1, column: offset - (starts[low] ?? 0) + 1 };
  };
}
