import { toJson } from "../sanitize.ts";
import type { Colors } from "../colors.ts";
import type { Paths } from "../host/create-host.ts";

/** What every command is given. */
export interface Context {
  readonly paths: Paths;
  readonly json: boolean;
  readonly color: boolean;
  readonly colors: Colors;
  /** Writes to standard output; a newline is added. */
  readonly print: (text: string) => void;
  /** Writes to standard error; a newline is added. */
  readonly complain: (text: string) => void;
}

export function printJson(context: Context, value: unknown): void {
  context.print(toJson(value));
}
