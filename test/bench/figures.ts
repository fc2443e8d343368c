export function quantile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? Number.NaN;
}

/** @param samples in ms */
export function printTimes(what: string, samples: readonly number[]): void {
  const ms = (share: number): string => `${quantile(samples, share).toFixed(1).padStart(6)} ms`;
  say(`  ${what.padEnd(32)} p50 ${ms(0.5)}  p99 ${ms(0.99)}  max ${ms(1)}  n=${samples.length}`);
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
