import { join } from "node:path";
import type { Lab } from "./lab.ts";

/** A terminal with a shell, in a lab: keys in, characters on a screen out. */
export interface Tmux {
  /** As tmux names them: `q`, `C-c`, `Down`, `Enter`. */
  press(...keys: readonly string[]): Promise<void>;
  /** Types a command and Enter. */
  type(command: string): Promise<void>;
  resize(columns: number, rows: number): Promise<void>;
  /** What is on the screen, a line each. */
  screen(): Promise<string>;
  /** A tmux format, such as `#{alternate_on}`. */
  ask(format: string): Promise<string>;
}

export async function openTmux(lab: Lab, columns: number, rows: number): Promise<Tmux> {
  const run = async (...args: readonly string[]): Promise<string> => {
    const command = ["tmux", "-u", "-f", "/dev/null", "-S", join(lab.dir, "tmux"), ...args];
    return (await lab.exec(command, { env: { TERM: "xterm", PS1: "$ " } })).stdout;
  };
  await run("new-session", "-d", "-x", `${columns}`, "-y", `${rows}`, "sh");
  await run("set-option", "-g", "status", "off");
  await run("set-option", "-g", "window-size", "manual");
  const resize = async (toColumns: number, toRows: number): Promise<void> =>
    void (await run("resize-window", "-x", `${toColumns}`, "-y", `${toRows}`));
  await resize(columns, rows);
  return {
    press: async (...keys) => void (await run("send-keys", ...keys)),
    type: async (command) => {
      await run("send-keys", "-l", command);
      await run("send-keys", "Enter");
    },
    resize,
    screen: () => run("capture-pane", "-p"),
    ask: async (format) => (await run("display-message", "-p", format)).trim(),
  };
}
