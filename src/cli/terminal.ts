import { emitKeypressEvents } from "node:readline";
import type { Key } from "node:readline";
import { nameKey } from "./screen.ts";
import type { Size } from "./screen.ts";

/** The alternate screen, without cursor. A line with wide characters, such as emojis, can be too long: it does not wrap. */
const ENTER = "\u001b[?1049h\u001b[?25l\u001b[?7l";
const LEAVE = "\u001b[?7h\u001b[?25h\u001b[?1049l";
/** Each line overwrites the one before it, then the rest is cleared: the screen is never blank, so it does not flicker. */
const HOME = "\u001b[H";
const TO_END_OF_LINE = "\u001b[K";
const TO_END_OF_SCREEN = "\u001b[J";
/** Size of a terminal that does not report it. */
const STANDARD: Size = { rows: 24, columns: 80 };

/** The whole terminal, until it is closed. */
export interface Terminal {
  size(): Size;
  /** Replaces the lines on the screen. */
  draw(lines: readonly string[]): void;
  /** Restores the terminal. */
  close(): void;
}

export interface TerminalEvents {
  /** @param key see {@link nameKey} */
  readonly onKey: (key: string) => void;
  readonly onResize: () => void;
  /** The terminal has gone. */
  readonly onHangup: () => void;
}

/** Checks input, too: without keys the user could not quit. */
export function isTerminal(): boolean {
  return process.stdin.isTTY && process.stdout.isTTY;
}

/** Takes the terminal, and restores it however the process ends. */
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
