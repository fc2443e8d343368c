import { KvmnatdError } from "../../errors.ts";
import type { Launcher } from "../exec/launcher.ts";

/**
 * Runs `ip -json`.
 * @param args e.g. `address show`
 * @returns its rows
 * @throws CommandError when ip fails
 */
export async function readIpJson<Row>(
  launcher: Launcher,
  ...args: readonly string[]
): Promise<readonly Row[]> {
  const stdout = await launcher.read(["ip", "-json", ...args]);
  // ip prints names unescaped, but JSON allows no control characters: each becomes a blank, which no link name can contain.
  const text = stdout.replaceAll(/\p{Cc}/gu, " ").trim();
  return text === "" ? [] : (parseJson(text, args) as readonly Row[]);
}

function parseJson(text: string, args: readonly string[]): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = `ip -json ${args.join(" ")}: it printed no JSON; is it iproute2's, and whole?`;
    throw new KvmnatdError("command-failed", message, { cause: error });
  }
}
