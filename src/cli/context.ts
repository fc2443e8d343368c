import { toJson } from "../sanitize.ts";
import type { Style } from "./style.ts";
import type { Paths } from "../paths.ts";

/** What every command is given. */
export interface Context {
  readonly paths: Paths;
  readonly json: boolean;
  readonly color: boolean;
  readonly style: Style;
  /** Writes to standard output; a newline is added. */
  readonly print: (text: string) => void;
  /** Writes to standard error; a newline is added. */
  readonly complain: (text: string) => void;
}

export function printJson(context: Context, value: unknown): void {
  context.print(toJson(value));
}
