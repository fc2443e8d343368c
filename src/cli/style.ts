import { styleText } from "node:util";

/** Colours a text, or returns it as it is. */
export type Style = (format: "bold" | "dim" | "red" | "green" | "yellow" | "cyan", text: string) => string;

export function createStyle(enabled: boolean): Style {
  return (format, text) => (enabled ? styleText(format, text, { validateStream: false }) : text);
}
