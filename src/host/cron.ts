import { schedule, validate } from "node-cron";

export function isCron(expression: string): boolean {
  return validate(expression);
}

/**
 * Calls `onTick` at the times of a cron expression, in the host's time zone.
 * @returns a function that stops it
 */
export function startResync(expression: string, onTick: () => void): () => void {
  const task = schedule(expression, onTick, { suppressMissedWarning: true });
  return () => void task.destroy();
}
