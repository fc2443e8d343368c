import { execFileSync } from "node:child_process";
import { resolve } from "node:path";

/** vitest's global set-up: the tests run what users run. */
export function setup(): void {
  execFileSync("npm", ["run", "--silent", "build"], { cwd: resolve(import.meta.dirname, "../..") });
}
