import { emitKeypressEvents } from "node:readline";
import type { Key } from "node:readline";
import { nameKey } from "./screen.ts";
import type { Size } from "./screen.ts";

/** The alternate screen, without cursor; what is too wide (an emoji counts as one of our characters) wraps nowhere. */
const ENTER = "\u001b[?1049h\u001b[?25l\u001b[?7l";
const LEAVE = "\u001b[?7h\u001b[?25h\u001b[?1049l";
/** From the top, each line to its end, then all below: nothing is blank in between, so nothing flickers. */
const HOME = "\u001b[H";
const TO_END_OF_LINE = "\u001b[K";
const TO_END_OF_SCREEN = "\u001b[J";
/** Size of a terminal that does not report it. */
const STANDARD: Size = { rows: 24, columns: 80 };

/** The terminal, whole, as long as it is open. */
export interface Terminal {
  size(): Size;
  /** Shows these lines in the place of what is there. */
  draw(lines: readonly string[]): void;
  /** Everything is as it was before. */
  close(): void;
}

export interface TerminalEvents {
  /** @param key see {@link nameKey} */
  readonly onKey: (key: string) => void;
  readonly onResize: () => void;
  /** The terminal is closed. */
  readonly onHangup: () => void;
}

/** Both ends: who cannot press a key could not leave. */
export function isTerminal(): boolean {
  return process.stdin.isTTY && process.stdout.isTTY;
}

/** Takes the terminal; however the process ends, it is given back. */
export function openTerminal({ onKey, onResize, onHangup }: TerminalEvents): Terminal {
  const { stdin, stdout } = process;
  const onKeypress = (typed: string | undefined, key: Key): void => onKey(nameKey(typed, key));
  const close = (): void => {
    process.off("exit", close);
    stdout.off("resize", onResize);
    stdin.off("keypress", onKeypress).off("end", onHangup).pause();
    process.off("SIGHUP", onHangup);
    stdin.setRawMode(false);
    stdout.write(LEAVE);
  };
  process.on("exit", close);
  process.on("SIGHUP", onHangup);
  emitKeypressEvents(stdin);
  stdin.setRawMode(true);
  stdin.on("keypress", onKeypress).on("end", onHangup);
  stdout.on("resize", onResize);
  stdout.write(ENTER);
  return {
    size: () => ({ rows: stdout.rows || STANDARD.rows, columns: stdout.columns || STANDARD.columns }),
    draw: (lines) => {
      const text = lines.map((line) => line + TO_END_OF_LINE).join("\r\n");
      stdout.write(HOME + text + TO_END_OF_SCREEN);
    },
    close,
  };
}
