import { KvmnatdError } from "../../errors.ts";
import type { Launcher } from "../exec/launcher.ts";

/**
 * What `ip -json` says, a row each.
 * @param args its words, e.g. `address show`
 * @throws CommandError when ip fails
 */
export async function readIpJson<Row>(
  launcher: Launcher,
  ...args: readonly string[]
): Promise<readonly Row[]> {
  const stdout = await launcher.read(["ip", "-json", ...args]);
  // It prints names as they are, and JSON allows no control characters: for each a blank, which no link's name can hold.
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
